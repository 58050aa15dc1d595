"""The llm-proxy over HTTP in OpenAI's form: answers, streams, tools, vectors, models, refusals, and who may ask."""

import asyncio
import base64
import hashlib
import json
import struct
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from agentmesh.api.llm.v1 import llm_service_pb2 as pb
from agentmesh.kit import names
from agentmesh.kit.auth import Keyring
from agentmesh_gateway.settings import Bounds
from tests.support.fake_openai import answer_for, vector_for
from tests.support.llm_gateway import LlmGateway, data_of, llm_gateway

CHAT = "/v1/chat/completions"
HELLO = [{"role": "user", "content": "CANARY-PROMPT hello"}]
TOOLS = [{"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}]


@pytest.fixture
async def gate() -> AsyncIterator[LlmGateway]:
    async with llm_gateway() as made:
        yield made


def chat(model: str = "ok", **fields: Any) -> dict[str, Any]:
    return {"model": model, "messages": HELLO, **fields}


async def chunks_of(gate: LlmGateway, body: dict[str, Any]) -> tuple[list[dict[str, Any]], str]:
    answer = await gate.client.post(CHAT, json={**body, "stream": True})
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"].startswith("text/event-stream")
    *data, last = data_of(answer.text)
    return [json.loads(one) for one in data], last


async def test_a_completion_has_openais_shape(gate: LlmGateway) -> None:
    answer = await gate.client.post(CHAT, json=chat())
    body = answer.json()
    assert answer.headers["x-request-id"].startswith("req_")
    assert body["id"].startswith("chatcmpl-")
    assert (body["object"], body["model"]) == ("chat.completion", "ok")
    assert isinstance(body["created"], int)
    [choice] = body["choices"]
    assert choice["finish_reason"] == "stop"
    assert choice["message"]["role"] == "assistant"
    assert choice["message"]["content"].strip() == answer_for(gate.fake.hits[0].body)
    usage = body["usage"]
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"] > 0
    assert usage["prompt_tokens_details"] == {"cached_tokens": 1}


async def test_a_stream_begins_with_the_role_and_ends_with_the_marker(gate: LlmGateway) -> None:
    chunks, last = await chunks_of(gate, chat())
    assert last == "[DONE]"
    assert {(chunk["object"], chunk["id"]) for chunk in chunks} == {("chat.completion.chunk", chunks[0]["id"])}
    assert chunks[0]["choices"][0]["delta"]["role"] == "assistant"
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks] == [None] * (len(chunks) - 1) + ["stop"]
    said = "".join(chunk["choices"][0]["delta"].get("content") or "" for chunk in chunks)
    assert said.strip() == answer_for(gate.fake.hits[0].body)
    assert all("usage" not in chunk for chunk in chunks)


async def test_usage_comes_in_a_chunk_of_its_own_when_asked_for(gate: LlmGateway) -> None:
    chunks, last = await chunks_of(gate, chat(stream_options={"include_usage": True}))
    assert last == "[DONE]"
    assert [chunk["usage"] for chunk in chunks[:-1]] == [None] * (len(chunks) - 1)
    assert chunks[-1]["choices"] == []
    assert chunks[-1]["usage"]["prompt_tokens"] > 0


async def test_tool_calls_come_whole_and_in_pieces(gate: LlmGateway) -> None:
    whole = (await gate.client.post(CHAT, json=chat("tools", tools=TOOLS, tool_choice="auto"))).json()["choices"][0]
    assert (whole["finish_reason"], whole["message"]["content"]) == ("tool_calls", None)
    expected = [("call_0", "look", {"number": 0}), ("call_1", "look", {"number": 1})]
    calls = whole["message"]["tool_calls"]
    assert [(c["id"], c["function"]["name"], json.loads(c["function"]["arguments"])) for c in calls] == expected
    chunks, _ = await chunks_of(gate, chat("tools", tools=TOOLS))
    pieces = [piece for chunk in chunks for piece in chunk["choices"][0]["delta"].get("tool_calls", ())]
    for index in (0, 1):
        first, *rest = [piece for piece in pieces if piece["index"] == index]
        assert (first["id"], first["type"], first["function"]["name"]) == (f"call_{index}", "function", "look")
        assert all("id" not in piece for piece in rest)
        text = "".join(piece["function"]["arguments"] for piece in [first, *rest])
        assert json.loads(text) == {"number": index}
    answered = [
        *HELLO,
        {"role": "assistant", "content": None, "tool_calls": calls},
        *({"role": "tool", "tool_call_id": c["id"], "content": "7"} for c in calls),
    ]
    after = await gate.client.post(CHAT, json=chat("tools", tools=TOOLS) | {"messages": answered})
    assert after.json()["choices"][0]["finish_reason"] == "stop"
    assert gate.fake.hits[-1].body["messages"][-1] == {"role": "tool", "tool_call_id": "call_1", "content": "7"}


async def test_reasoning_goes_out_beside_the_answer(gate: LlmGateway) -> None:
    whole = await gate.client.post(CHAT, json=chat("reasoning"))
    assert whole.json()["choices"][0]["message"]["reasoning_content"] == "Hm, so be it."
    chunks, _ = await chunks_of(gate, chat("reasoning"))
    assert [c["choices"][0]["delta"]["reasoning_content"] for c in chunks[1:3]] == ["Hm, ", "so be it."]


async def test_images_sounds_files_and_sampling_reach_the_provider(gate: LlmGateway) -> None:
    data = base64.b64encode(b"bytes").decode()
    parts = [
        {"type": "text", "text": "look"},
        {"type": "image_url", "image_url": {"url": "https://example.org/a.png", "detail": "low"}},
        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{data}"}},
        {"type": "input_audio", "input_audio": {"data": data, "format": "wav"}},
        {"type": "file", "file": {"filename": "a.pdf", "file_data": f"data:application/pdf;base64,{data}"}},
    ]
    schema = {"type": "object", "properties": {"a": {"type": "integer", "minimum": 1}}}
    body = {
        "model": "ok",
        "messages": [{"role": "developer", "content": "be brief"}, {"role": "user", "content": parts}],
        "response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": schema, "strict": True}},
        "max_completion_tokens": 9,
        "stop": "END",
        "seed": 4,
        "temperature": 0,
        "top_p": 0.5,
        "user": "u",
        "metadata": {"a": "b"},
        "store": False,
        "service_tier": "auto",
        "n": 1,
        "logprobs": False,
        "presence_penalty": 0,
    }
    answer = await gate.client.post(CHAT, json=body)
    assert answer.status_code == 200, answer.text
    sent = gate.fake.hits[0].body
    assert sent["messages"][0] == {"role": "system", "content": "be brief"}
    kinds = [part["type"] for part in sent["messages"][1]["content"]]
    assert kinds == ["text", "image_url", "image_url", "input_audio", "file"]
    assert sent["messages"][1]["content"][1]["image_url"]["url"] == "https://example.org/a.png"
    assert sent["messages"][1]["content"][2]["image_url"]["url"] == f"data:image/png;base64,{data}"
    assert sent["response_format"]["json_schema"] == {"name": "x", "schema": schema, "strict": True}
    assert (sent["max_tokens"], sent["stop"], sent["seed"], sent["temperature"], sent["top_p"]) == (
        9,
        ["END"],
        4,
        0,
        0.5,
    )


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"n": 2}, "n"),
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
        ({"logit_bias": {"1": 2}}, "logit_bias"),
        ({"reasoning_effort": "immense"}, "reasoning_effort"),
        ({"frequency_penalty": 2.5}, "frequency_penalty"),
        ({"prompt_cache_key": "k" * 257}, "prompt_cache_key"),
        ({"nonsense": 1}, "nonsense"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "user"}]}, "messages[0].content"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].tool_call_id"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "file:///x"}}]}]},
            "messages[0].content[0].image_url",
        ),
        ({"temperature": "warm"}, "temperature"),
        ({"stop": ["a", "b", "c", "d", "e"]}, "stop"),
        ({"tools": TOOLS * 2}, "tools[1].function.name"),
        ({"tool_choice": {"type": "function", "function": {"name": "nope"}}}, "tool_choice.function.name"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema"),
    ],
)
async def test_what_cannot_be_honoured_is_refused_by_its_name(gate: LlmGateway, fields: Any, param: str) -> None:
    answer = await gate.client.post(CHAT, json=chat(**fields))
    error = answer.json()["error"]
    assert (answer.status_code, error["type"], error["param"]) == (400, "invalid_request_error", param)
    assert param in error["message"]
    assert "CANARY" not in answer.text
    assert gate.fake.hits == []


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("model", "status", "kind", "code", "again"),
    [
        ("nope", 404, "invalid_request_error", "model_not_found", None),
        ("vectors", 400, "invalid_request_error", "invalid_value", None),
        ("too-long", 400, "invalid_request_error", "context_length_exceeded", None),
        ("rate-limited:7", 429, "rate_limit_error", "rate_limit_exceeded", "true"),
        ("status:500", 502, "server_error", "provider_failed", "true"),
        ("status:401", 502, "server_error", "provider_credential", "false"),
    ],
)
async def test_a_refusal_has_openais_shape_and_status(
    gate: LlmGateway, stream: bool, model: str, status: int, kind: str, code: str, again: str | None
) -> None:
    answer = await gate.client.post(CHAT, json=chat(model, stream=stream))
    error = answer.json()["error"]
    assert (answer.status_code, error["type"], error["code"]) == (status, kind, code)
    assert set(error) == {"message", "type", "param", "code"}
    assert answer.headers.get("x-should-retry") == again
    assert answer.headers.get("retry-after") == {"rate-limited:7": "7", "status:500": "1"}.get(model)
    assert answer.headers["x-request-id"]
    assert "CANARY" not in answer.text


async def test_an_answer_that_breaks_off_never_looks_whole(gate: LlmGateway) -> None:
    chunks, last = await chunks_of(gate, chat("cut:700"))
    assert len(chunks) > 1
    assert json.loads(last)["error"]["type"] == "server_error"
    assert all(choice["finish_reason"] is None for chunk in chunks for choice in chunk["choices"])
    assert "CANARY" not in last
    whole = await gate.client.post(CHAT, json=chat("cut:700"))
    assert (whole.status_code, whole.json()["error"]["code"]) == (502, "stream_interrupted")
    early = await gate.client.post(CHAT, json=chat("error-event", stream=True))
    assert (early.status_code, early.json()["error"]["code"]) == (502, "provider_failed")


@pytest.mark.parametrize("stream", [False, True])
async def test_a_client_that_leaves_takes_the_providers_call_with_it(gate: LlmGateway, stream: bool) -> None:
    async with httpx.AsyncClient(base_url=gate.base_url) as client:
        asking = asyncio.create_task(client.post(CHAT, json=chat("stall:3", stream=stream)))
        async with asyncio.timeout(5):
            while not gate.fake.hits:
                await asyncio.sleep(0.01)
        await asyncio.sleep(0.1)
        asking.cancel()
        await asyncio.wait({asking})
    async with asyncio.timeout(2):
        await gate.fake.hits[0].closed.wait()
    assert gate.fake.hits[0].how == "client_gone"


async def test_a_silent_stream_says_that_it_is_alive_and_ends_at_its_deadline() -> None:
    async with llm_gateway(Bounds(heartbeat_s=0.05, answer_stream_timeout_s=0.6, first_delta_s=0.1)) as gate:
        answer = await gate.client.post(CHAT, json=chat("stall:3", stream=True))
        assert answer.text.count(": still here\n\n") >= 3
        assert json.loads(data_of(answer.text)[-1])["error"]["code"] == "deadline_exceeded"
        late = await gate.client.post(CHAT, json=chat("stall:0"), headers={"x-request-timeout": "0.2"})
        assert (late.status_code, late.headers["x-should-retry"]) == (504, "false")


async def test_vectors_come_as_numbers_and_as_base64(gate: LlmGateway) -> None:
    texts = ["one", "two"]
    asked = {"model": "vectors", "input": texts, "dimensions": 4}
    body = (await gate.client.post("/v1/embeddings", json=asked)).json()
    assert (body["object"], body["model"]) == ("list", "vectors")
    assert [(one["object"], one["index"]) for one in body["data"]] == [("embedding", 0), ("embedding", 1)]
    expected = [vector_for(text, 4) for text in texts]
    assert [one["embedding"] for one in body["data"]] == expected
    assert body["usage"] == {"prompt_tokens": 2, "total_tokens": 2}
    encoded = (await gate.client.post("/v1/embeddings", json=asked | {"encoding_format": "base64"})).json()
    assert [list(struct.unpack("<4f", base64.b64decode(one["embedding"]))) for one in encoded["data"]] == expected
    one = await gate.client.post("/v1/embeddings", json={"model": "vectors", "input": "one"})
    assert len(one.json()["data"]) == 1


@pytest.mark.parametrize("wrong", [[], "", [1, 2], [[1], [2]], ["a", ""], 7])
async def test_what_is_no_text_is_not_embedded(gate: LlmGateway, wrong: Any) -> None:
    answer = await gate.client.post("/v1/embeddings", json={"model": "vectors", "input": wrong})
    assert answer.status_code == 400
    assert answer.json()["error"]["param"].startswith("input")


async def test_models_are_listed_and_found(gate: LlmGateway) -> None:
    listed = (await gate.client.get("/v1/models")).json()
    assert listed["object"] == "list"
    by_id = {model["id"]: model for model in listed["data"]}
    assert by_id["ok"] == {"id": "ok", "object": "model", "created": 0, "owned_by": "fake"}
    assert (await gate.client.get("/v1/models/ok")).json() == by_id["ok"]
    assert (await gate.client.get("/v1/models/fake/ok")).json() == by_id["ok"]
    absent = await gate.client.get("/v1/models/nope")
    assert (absent.status_code, absent.json()["error"]["code"]) == (404, "model_not_found")


async def test_a_body_that_is_too_large_or_no_json_is_refused_in_openais_shape() -> None:
    async with llm_gateway(Bounds(max_body_bytes=1000)) as gate:
        large = await gate.client.post(CHAT, json=chat(user="x" * 1000))
        assert (large.status_code, large.json()["error"]["code"]) == (413, "body_too_large")
        broken = await gate.client.post(CHAT, content=b"{", headers={"content-type": "application/json"})
        assert (broken.status_code, broken.json()["error"]["code"]) == (400, "malformed_json")
        foreign = await gate.client.post(CHAT, json=chat(), headers={"origin": "https://evil.example"})
        assert (foreign.status_code, foreign.json()["error"]["type"]) == (403, "permission_error")


KEYS = {key: {"sha256": hashlib.sha256(key.encode()).hexdigest(), "tenant": key[-1]} for key in ("key-a", "key-b")}


async def test_only_a_known_key_may_ask() -> None:
    async with llm_gateway(authentication=True, api_keys=list(KEYS.values())) as gate:
        for headers in ({}, {"authorization": "Bearer nope"}, {"x-api-key": "nope"}):
            answer = await gate.client.post(CHAT, content=b"not read", headers=headers)
            error = answer.json()["error"]
            assert (answer.status_code, error["type"], error["code"]) == (
                401,
                "invalid_request_error",
                "invalid_api_key",
            )
            assert (await gate.client.get("/v1/models", headers=headers)).status_code == 401
        good = await gate.client.post(CHAT, json=chat(), headers={"authorization": "Bearer key-a"})
        assert good.status_code == 200


async def test_the_tenant_is_the_credentials_and_no_header_names_another() -> None:
    async with llm_gateway(authentication=True, api_keys=list(KEYS.values())) as gate:
        service = gate.llm.keyring.role_token(names.GATEWAY)
        headers = {"authorization": "Bearer key-a", names.TENANT: "b", names.TASK_TOKEN: "forged"}
        answer = await gate.client.post(CHAT, json=chat(), headers=headers)
        assert answer.status_code == 200
        # A role token is no client's credential.
        stolen = await gate.client.post(CHAT, json=chat(), headers={"authorization": f"Bearer {service}"})
        assert stolen.status_code == 401


async def test_a_gateway_with_the_wrong_secret_does_not_blame_its_client() -> None:
    async with llm_gateway(keyring=Keyring("another secret")) as gate:
        answer = await gate.client.post(CHAT, json=chat())
        assert (answer.status_code, answer.json()["error"]["code"]) == (500, "gateway_credential")
        assert answer.headers["x-should-retry"] == "false"


async def test_what_the_gateway_says_is_the_tenant_of_its_calls(gate: LlmGateway) -> None:
    """Calls with one key are joined within a tenant only, so joining tells which tenant the llm-proxy saw."""
    gateway = [("authorization", f"Bearer {gate.llm.keyring.role_token(names.GATEWAY)}"), (names.TENANT, "a")]
    asked = pb.GenerateRequest(model="ok", idempotency_key="k")
    asked.messages.add(role=pb.CHAT_ROLE_USER).parts.add(text="hello")
    await gate.llm.stub.Generate(asked, metadata=gateway, timeout=5)
    assert (await gate.llm.call("Generate", asked, tenant="a")).joined
    assert not (await gate.llm.call("Generate", asked, tenant="b")).joined
