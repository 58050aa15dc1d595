"""What calls cost is known, also of those that were left or cut; and nobody spends more than they may."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import pytest

from agentmesh.api.llm.v1 import key_service_pb2 as keys_pb
from agentmesh.api.llm.v1 import llm_service_pb2 as pb
from agentmesh.kit.errors import (
    InvalidRequest,
    MeshError,
    NotFound,
    PermissionDenied,
    ResourceExhausted,
    Unauthenticated,
    Unavailable,
)
from agentmesh.kit.spend_settings import ModelPrice, Spending, TenantSpendLimits
from tests.support.fake_provider import FakeProvider
from tests.support.llm_service import LlmCaller, ask, llm_service, provider

MODELS = ["ok", "slow:30", "cut:700", "long:100", "status:500", "stall:2"]
PRICES = (ModelPrice(models="fake/*", input_usd=2, output_usd=8), ModelPrice(models="priceless/*", input_usd=0))
BY = pb.GetUsageRequest
IN, OUT = 2000, 8000  # billionths of a dollar for a token


@asynccontextmanager
async def service(fake: FakeProvider, **spending: Any) -> AsyncIterator[LlmCaller]:
    """Run the service with prices and these limits."""
    served = provider(fake.base_url, MODELS, embedding_models=["vectors"])
    async with llm_service(served, prices=PRICES, spending=Spending(**spending)) as llm:
        yield llm


@pytest.fixture
async def fake() -> AsyncIterator[FakeProvider]:
    """A provider that counts its calls."""
    async with FakeProvider() as fake:
        yield fake


@pytest.fixture
async def llm(fake: FakeProvider) -> AsyncIterator[LlmCaller]:
    """The service, without limits."""
    async with service(fake) as llm:
        yield llm


async def sums(llm: LlmCaller, *by: Any, tenant: str = "acme", **only: Any) -> list[pb.UsageSum]:
    answer = await llm.operate("GetUsage", pb.GetUsageRequest(by=by, **only), tenant=tenant)
    return list(answer.sums)


async def total(llm: LlmCaller, tenant: str = "acme") -> pb.UsageSum:
    (one,) = await sums(llm, tenant=tenant)
    return one


async def until_booked(llm: LlmCaller, calls: int) -> pb.UsageSum:
    async with asyncio.timeout(10):
        while (one := await total(llm)).usage.llm_calls < calls:
            await asyncio.sleep(0.02)
    return one


async def make_key(llm: LlmCaller, tenant: str = "acme", **fields: Any) -> Any:
    key = keys_pb.VirtualKey(**{"name": "test", **fields})
    return await llm.operate("CreateKey", keys_pb.CreateKeyRequest(key=key), tenant=tenant)


async def refused(llm: LlmCaller, request: pb.GenerateRequest, **how: Any) -> ResourceExhausted:
    with pytest.raises(ResourceExhausted) as error:
        await llm.call("Generate", request, **how)
    return error.value


async def until_refused(llm: LlmCaller, request: pb.GenerateRequest) -> ResourceExhausted:
    for _ in range(50):
        try:
            await llm.call("Generate", request)
        except ResourceExhausted as error:
            return error
    raise AssertionError("nothing was refused")


async def test_an_answer_tells_its_cost_and_the_books_have_it_by_tenant_model_task_and_day(llm: LlmCaller) -> None:
    answer = await llm.call("Generate", ask())
    used = answer.usage
    assert used.cost_nano_usd == used.input_tokens * IN + used.output_tokens * OUT > 0
    (one,) = await sums(llm, BY.BY_TENANT, BY.BY_MODEL, BY.BY_TASK, BY.BY_DAY, BY.BY_KEY)
    assert (one.tenant, one.model, one.task_id, one.key_id) == ("acme", "fake/ok", "task-1", "")
    assert (one.requests, one.usage.llm_calls, one.usage.cost_nano_usd) == (1, 1, used.cost_nano_usd)
    assert (one.usage.input_tokens, one.usage.output_tokens) == (used.input_tokens, used.output_tokens)


async def test_an_answer_that_was_given_before_or_is_shared_is_a_request_and_costs_nothing(llm: LlmCaller) -> None:
    repeatable = ask("slow:30", sampling=pb.Sampling(temperature=0))
    answers = await asyncio.gather(*(llm.call("Generate", repeatable) for _ in range(20)))
    assert sum(answer.usage.cost_nano_usd > 0 for answer in answers) == 1
    hit = await llm.call("Generate", repeatable)
    assert hit.cache == pb.CACHE_OUTCOME_HIT
    assert hit.usage.cost_nano_usd == 0
    one = await total(llm)
    assert (one.requests, one.usage.llm_calls) == (21, 1)
    assert one.usage.cost_nano_usd == max(answer.usage.cost_nano_usd for answer in answers)


async def test_what_was_left_or_cut_in_the_middle_is_paid_for_all_the_same(llm: LlmCaller) -> None:
    call = llm.open(ask("stall:2"))
    assert (await call.read()).deltas
    call.cancel()
    left = await until_booked(llm, 1)
    assert left.usage.output_tokens > 0
    assert left.usage.cost_nano_usd == left.usage.input_tokens * IN + left.usage.output_tokens * OUT
    _, error = await llm.stream(ask("cut:700"))
    assert isinstance(error, Unavailable)
    both = await until_booked(llm, 2)
    assert both.usage.output_tokens > left.usage.output_tokens


async def test_texts_that_were_embedded_are_booked_to_whom_they_were_embedded_for(llm: LlmCaller) -> None:
    answers = await asyncio.gather(
        *(llm.call("Embed", pb.EmbedRequest(model="vectors", inputs=[f"text {n}"])) for n in range(30))
    )
    tokens = sum(answer.usage.input_tokens for answer in answers)
    one = await total(llm)
    assert (one.requests, one.usage.input_tokens, one.usage.cost_nano_usd) == (30, tokens, tokens * IN)


async def test_a_tenant_sees_its_own_usage_only_whatever_it_asks(llm: LlmCaller) -> None:
    await llm.call("Generate", ask())
    await llm.call("Generate", ask(), tenant="other")
    mine = await llm.call("GetUsage", pb.GetUsageRequest(by=[BY.BY_TENANT]))
    assert [one.tenant for one in mine.sums] == ["acme"]
    assert {one.tenant for one in await sums(llm, BY.BY_TENANT, tenant="")} == {"acme", "other"}


@pytest.mark.parametrize(
    "fields",
    [{"by": [99]}, {"from_day": "yesterday"}, {"from_day": "2026-02-30"}, {"limit": -1}, {"to_day": "2020-01-01"}],
)
async def test_a_question_about_usage_that_makes_no_sense_is_refused(fields: Mapping[str, Any], llm: LlmCaller) -> None:
    with pytest.raises(InvalidRequest):
        await llm.call("GetUsage", pb.GetUsageRequest(**fields))


@pytest.mark.parametrize("period", ["day", "month"])
async def test_a_budget_that_is_spent_refuses_what_would_cost_and_not_what_is_cached(
    period: str, fake: FakeProvider
) -> None:
    repeatable = ask(sampling=pb.Sampling(temperature=0, max_output_tokens=100))
    limit = TenantSpendLimits(tenant="acme", **{f"budget_{period}_usd": 0.0013})
    async with service(fake, tenants=(limit,)) as llm:
        first = await llm.call("Generate", repeatable)
        error = await until_refused(llm, ask(sampling=pb.Sampling(max_output_tokens=100)))
        assert error.reason == "BUDGET_EXHAUSTED"
        assert 400_000 < (await total(llm)).usage.cost_nano_usd <= 1_300_000
        assert error.retry_after_s
        assert (await llm.call("Generate", repeatable)).message == first.message
        await llm.call("Generate", ask(), tenant="other")


async def test_calls_at_once_can_not_spend_more_than_the_budget_together(fake: FakeProvider) -> None:
    # One call sets aside 10 + 100 tokens or so: 0.00083 dollars.
    async with service(fake, tenants=(TenantSpendLimits(tenant="acme", budget_day_usd=0.0043),)) as llm:
        asked = [ask("slow:30", f"Rivers {n}", sampling=pb.Sampling(max_output_tokens=100)) for n in range(40)]
        answers = await asyncio.gather(*(llm.call("Generate", one) for one in asked), return_exceptions=True)
        refusals = [answer for answer in answers if isinstance(answer, ResourceExhausted)]
        assert len(refusals) == 35
        assert len(answers) - len(refusals) == len([hit for hit in fake.hits if hit.model == "slow:30"]) == 5
        # What they did not use is there for others.
        assert await llm.call("Generate", ask(sampling=pb.Sampling(max_output_tokens=100)))


async def test_a_call_that_fails_or_is_left_gives_back_what_was_set_aside(fake: FakeProvider) -> None:
    async with service(fake, tenants=(TenantSpendLimits(tenant="acme", budget_day_usd=0.001),)) as llm:
        small = pb.Sampling(max_output_tokens=100)
        for _ in range(3):
            with pytest.raises(MeshError) as failed:
                await llm.call("Generate", ask("status:500", sampling=small))
            assert not isinstance(failed.value, ResourceExhausted)
        call = llm.open(ask("stall:2", sampling=small))
        await call.read()
        assert (await refused(llm, ask(sampling=small))).reason == "BUDGET_EXHAUSTED"
        call.cancel()
        await until_booked(llm, 4)
        assert await llm.call("Generate", ask(sampling=small))


async def test_requests_and_tokens_of_a_minute_are_limited(fake: FakeProvider) -> None:
    limits = (
        TenantSpendLimits(tenant="acme", requests_per_minute=3),
        TenantSpendLimits(tenant="other", tokens_per_minute=300),
    )
    async with service(fake, tenants=limits) as llm:
        asked = ask(sampling=pb.Sampling(temperature=0, max_output_tokens=100))
        for _ in range(3):
            await llm.call("Generate", asked)
        error = await refused(llm, asked)
        assert (error.reason, error.quota) == ("RATE_LIMITED", "tenant:acme")
        assert error.retry_after_s
        assert 0 < error.retry_after_s <= 60
        different = [ask("slow:30", f"Seas {n}", sampling=pb.Sampling(max_output_tokens=100)) for n in range(6)]
        answers = await asyncio.gather(
            *(llm.call("Generate", one, tenant="other") for one in different), return_exceptions=True
        )
        refusals = [answer for answer in answers if isinstance(answer, ResourceExhausted)]
        assert len(refusals) == 4
        assert refusals[0].metadata["tokens_per_minute"] == "300"


async def test_a_key_has_its_own_models_limits_and_books(fake: FakeProvider) -> None:
    async with service(fake) as llm:
        made = await make_key(llm, models=["ok", "vec*"], requests_per_minute=2)
        shown = llm.gateway_metadata("acme", made.key.id)
        assert await llm.call("Generate", ask(), metadata=shown)
        with pytest.raises(PermissionDenied) as error:
            await llm.call("Generate", ask("long:100"), metadata=shown)
        assert error.value.reason == "MODEL_NOT_ALLOWED"
        assert (await refused(llm, ask(), metadata=shown)).quota == f"key:{made.key.id}"
        assert await llm.call("Generate", ask(fallbacks=["long:100"]), metadata=llm.gateway_metadata("acme"))
        (by_key,) = await sums(llm, BY.BY_KEY, key_id=made.key.id)
        assert (by_key.key_id, by_key.requests) == (made.key.id, 1)


async def test_a_key_may_not_fall_back_to_a_model_that_it_may_not_ask(llm: LlmCaller) -> None:
    made = await make_key(llm, models=["ok"])
    with pytest.raises(PermissionDenied):
        await llm.call("Generate", ask(fallbacks=["long:100"]), metadata=llm.gateway_metadata("acme", made.key.id))


async def test_a_key_that_is_revoked_or_over_or_nobodys_is_refused(llm: LlmCaller) -> None:
    made = await make_key(llm)
    shown = llm.gateway_metadata("acme", made.key.id)
    assert await llm.call("Generate", ask(), metadata=shown)
    with pytest.raises(NotFound):
        await llm.operate("RevokeKey", keys_pb.RevokeKeyRequest(id=made.key.id), tenant="other")
    ended = await llm.operate("RevokeKey", keys_pb.RevokeKeyRequest(id=made.key.id), tenant="acme")
    assert ended.key.HasField("revoke_time")
    for key_id in (made.key.id, "key_nobodys"):
        with pytest.raises(Unauthenticated) as error:
            await llm.call("Generate", ask(), metadata=llm.gateway_metadata("acme", key_id))
        assert error.value.reason == "KEY_INVALID"
    listed = await llm.operate("ListKeys", keys_pb.ListKeysRequest())
    assert not listed.keys
    every = await llm.operate("ListKeys", keys_pb.ListKeysRequest(all=True), tenant="acme")
    assert [key.id for key in every.keys] == [made.key.id]
    assert not (await llm.operate("ListKeys", keys_pb.ListKeysRequest(all=True), tenant="other")).keys


@pytest.mark.parametrize(
    "fields",
    [
        {"name": ""},
        {"name": "two\nlines"},
        {"models": ["a\nb"]},
        {"models": ["m"] * 101},
        {"budget_day_nano_usd": -1},
        {"expire_time": {"seconds": 1}},
    ],
)
async def test_a_key_that_makes_no_sense_is_not_made(fields: dict[str, Any], llm: LlmCaller) -> None:
    with pytest.raises(InvalidRequest):
        await make_key(llm, **fields)
    assert not (await llm.operate("ListKeys", keys_pb.ListKeysRequest())).keys
