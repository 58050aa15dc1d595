"""Virtual keys over HTTP: they open what they are for, within their limits, and nothing once they have ended."""

from collections.abc import AsyncIterator
from typing import Any

import pytest

from agentmesh.api.llm.v1 import key_service_pb2 as pb
from agentmesh.api.llm.v1 import llm_service_pb2
from agentmesh.kit import names
from tests.support.llm_gateway import LlmGateway, llm_gateway

BODY = {"model": "ok", "messages": [{"role": "user", "content": "hello"}]}
CHAT, MESSAGES = "/v1/chat/completions", "/v1/messages"


@pytest.fixture(params=[True, False], ids=["authentication", "anonymous"])
async def gate(request: pytest.FixtureRequest) -> AsyncIterator[LlmGateway]:
    """The gateway, with and without a key demanded of everybody."""
    async with llm_gateway(authentication=request.param) as made:
        yield made


async def make(gate: LlmGateway, **fields: Any) -> tuple[str, str]:
    """Return a new key's id and secret."""
    key = pb.VirtualKey(**{"name": "test", **fields})
    made = await gate.llm.operate("CreateKey", pb.CreateKeyRequest(key=key), tenant="acme")
    return made.key.id, made.secret


async def test_a_key_is_taken_in_either_vendors_header_and_says_whose_the_call_is(gate: LlmGateway) -> None:
    key_id, secret = await make(gate)
    by_bearer = await gate.client.post(CHAT, json=BODY, headers={"authorization": f"Bearer {secret}"})
    by_header = await gate.client.post(MESSAGES, json={**BODY, "max_tokens": 9}, headers={"x-api-key": secret})
    assert (by_bearer.status_code, by_header.status_code) == (200, 200)
    by = [llm_service_pb2.GetUsageRequest.BY_TENANT, llm_service_pb2.GetUsageRequest.BY_KEY]
    usage = await gate.llm.operate("GetUsage", llm_service_pb2.GetUsageRequest(by=by))
    assert [(one.tenant, one.key_id, one.requests) for one in usage.sums] == [("acme", key_id, 2)]


async def test_a_key_that_was_revoked_or_made_up_opens_nothing_in_either_shape(gate: LlmGateway) -> None:
    key_id, secret = await make(gate)
    assert (await gate.client.get("/v1/models", headers={"x-api-key": secret})).status_code == 200
    await gate.llm.operate("RevokeKey", pb.RevokeKeyRequest(id=key_id))
    for shown in (secret, f"{names.VIRTUAL_KEY_PREFIX}made-up"):
        # The gateway may still know the key; the llm-proxy looks again.
        openai = await gate.client.post(CHAT, json=BODY, headers={"authorization": f"Bearer {shown}"})
        anthropic = await gate.client.post(MESSAGES, json={**BODY, "max_tokens": 9}, headers={"x-api-key": shown})
        assert (openai.status_code, anthropic.status_code) == (401, 401)
        assert openai.json()["error"]["type"] == "invalid_request_error"
        assert anthropic.json()["error"]["type"] == "authentication_error"
        assert shown not in openai.text + anthropic.text
    assert not gate.fake.hits


async def test_a_client_can_not_name_a_key_a_tenant_or_a_role_itself(gate: LlmGateway) -> None:
    _, secret = await make(gate, models=["tools"])
    forged = {names.VIRTUAL_KEY: "", names.TENANT: "other", "authorization": f"Bearer {secret}"}
    refused = await gate.client.post(CHAT, json=BODY, headers=forged)
    assert refused.status_code == 403
    assert refused.json()["error"]["code"] == "model_not_allowed"
    listed = await gate.client.get("/v1/models", headers=forged)
    assert [model["id"] for model in listed.json()["data"]] == ["tools"]
    assert (await gate.client.get("/v1/models/ok", headers=forged)).status_code == 403


async def test_a_reached_limit_says_when_to_come_back_and_a_spent_budget_not_to(gate: LlmGateway) -> None:
    _, quick = await make(gate, requests_per_minute=1)
    shown = {"authorization": f"Bearer {quick}"}
    assert (await gate.client.post(CHAT, json=BODY, headers=shown)).status_code == 200
    limited = await gate.client.post(CHAT, json=BODY, headers=shown)
    assert limited.status_code == 429
    assert limited.headers["x-should-retry"] == "true"
    assert 1 <= int(limited.headers["retry-after"]) <= 60
    assert limited.json()["error"]["code"] == "rate_limit_exceeded"


async def test_a_budget_that_does_not_cover_a_call_is_told_as_no_quota() -> None:
    async with llm_gateway(llm={"prices": [{"models": "*", "input_usd": 1000, "output_usd": 1000}]}) as gate:
        _, poor = await make(gate, budget_day_nano_usd=1000)
        refused = await gate.client.post(CHAT, json=BODY, headers={"authorization": f"Bearer {poor}"})
        assert refused.status_code == 429
        assert refused.json()["error"]["code"] == refused.json()["error"]["type"] == "insufficient_quota"
        assert refused.headers["x-should-retry"] == "false"
        assert not gate.fake.hits


async def test_a_whole_answer_tells_its_cost_in_a_header_and_a_cached_one_none() -> None:
    async with llm_gateway(llm={"prices": [{"models": "*", "input_usd": 2, "output_usd": 8}]}) as gate:
        body = {**BODY, "temperature": 0}
        answer = await gate.client.post(CHAT, json=body)
        used = answer.json()["usage"]
        cost = used["prompt_tokens"] * 2 + used["completion_tokens"] * 8
        assert float(answer.headers["x-agentmesh-cost-usd"]) == pytest.approx(cost / 1e6)
        assert "x-agentmesh-cost-usd" not in (await gate.client.post(CHAT, json=body)).headers
        told = await gate.client.post(MESSAGES, json={**body, "max_tokens": 9, "temperature": 1})
        assert float(told.headers["x-agentmesh-cost-usd"]) > 0
