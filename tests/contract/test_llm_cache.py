"""Answers that were given before, or are under way, cost no call; and never cross from one tenant to another."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from google.protobuf.duration_pb2 import Duration

from agentmesh.api.llm.v1 import llm_service_pb2 as pb
from agentmesh.kit.errors import Canceled, InvalidRequest, MeshError, NotFound, Unavailable
from tests.support.fake_provider import FakeProvider
from tests.support.llm_service import LlmCaller, ask, llm_service, provider, text_of

MODELS = ["ok", "slow:30", "slow:200", "tools", "reasoning", "no-done", "cut:700", "status:503", "stall:2"]
Mode = pb.CachePolicy.Mode
MISS, HIT, COALESCED = pb.CACHE_OUTCOME_MISS, pb.CACHE_OUTCOME_HIT, pb.CACHE_OUTCOME_COALESCED


@pytest.fixture
async def fake() -> AsyncIterator[FakeProvider]:
    """A provider that counts its calls."""
    async with FakeProvider() as fake:
        yield fake


@pytest.fixture
async def llm(fake: FakeProvider) -> AsyncIterator[LlmCaller]:
    """The service with that provider, and a cache in memory."""
    async with llm_service(provider(fake.base_url, MODELS, embedding_models=["vectors"])) as llm:
        yield llm


def repeatable(model: str = "ok", mode: "Mode.ValueType" = Mode.MODE_UNSPECIFIED, **fields: Any) -> pb.GenerateRequest:
    """Ask for what may be cached."""
    policy = pb.CachePolicy(mode=mode, ttl=fields.pop("ttl", None))
    return ask(model, sampling=pb.Sampling(temperature=0), cache=policy, **fields)


async def until(holds: Any) -> None:
    """Wait until something holds."""
    async with asyncio.timeout(10):
        while not holds():
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("model", ["ok", "tools", "reasoning"])
async def test_a_second_answer_is_the_first_one_whether_streamed_or_whole(
    model: str, llm: LlmCaller, fake: FakeProvider
) -> None:
    tools = [pb.Tool(name="lookup", description="Looks up.")] if model == "tools" else []
    first = await llm.call("Generate", repeatable(model, tools=tools))
    second = await llm.call("Generate", repeatable(model, tools=tools))
    deltas, error = await llm.stream(repeatable(model, tools=tools))
    assert error is None
    assert (first.cache, second.cache, deltas[-1].finish.cache) == (MISS, HIT, HIT)
    assert second.message == first.message
    assert second.reasoning == first.reasoning
    assert text_of(deltas) == "".join(part.text for part in first.message.parts)
    assert (first.usage.llm_calls, second.usage.llm_calls) == (1, 0)
    assert second.usage.output_tokens == first.usage.output_tokens
    assert len(fake.hits) == 1


async def test_a_stream_fills_the_cache_as_well(llm: LlmCaller, fake: FakeProvider) -> None:
    await llm.stream(repeatable())
    assert (await llm.call("Generate", repeatable())).cache == HIT
    assert len(fake.hits) == 1


async def test_only_what_is_repeatable_is_cached_unless_it_is_asked_for(llm: LlmCaller, fake: FakeProvider) -> None:
    for _ in range(2):
        assert (await llm.call("Generate", ask("ok"))).cache == pb.CACHE_OUTCOME_UNSPECIFIED
    assert len(fake.hits) == 2
    warm = ask("ok", cache=pb.CachePolicy(mode=Mode.MODE_USE))
    assert [(await llm.call("Generate", warm)).cache for _ in range(2)] == [MISS, HIT]
    seeded = ask("ok", sampling=pb.Sampling(seed=7))
    assert [(await llm.call("Generate", seeded)).cache for _ in range(2)] == [MISS, HIT]


async def test_each_mode_does_what_it_says(llm: LlmCaller, fake: FakeProvider) -> None:
    with pytest.raises(NotFound) as raised:
        await llm.call("Generate", repeatable(mode=Mode.MODE_ONLY_IF_CACHED))
    assert raised.value.reason == "NOT_CACHED"
    assert not fake.hits
    outcomes = [
        (await llm.call("Generate", repeatable(mode=mode))).cache
        for mode in (
            Mode.MODE_BYPASS,
            Mode.MODE_USE,
            Mode.MODE_ONLY_IF_CACHED,
            Mode.MODE_REFRESH,
            Mode.MODE_USE,
            Mode.MODE_BYPASS,
        )
    ]
    assert outcomes == [pb.CACHE_OUTCOME_UNSPECIFIED, MISS, HIT, MISS, HIT, pb.CACHE_OUTCOME_UNSPECIFIED]
    assert len(fake.hits) == 4


async def test_an_entry_ends_by_its_time(llm: LlmCaller, fake: FakeProvider) -> None:
    short = repeatable(ttl=Duration(nanos=50_000_000))
    await llm.call("Generate", short)
    await asyncio.sleep(0.1)
    assert (await llm.call("Generate", short)).cache == MISS
    assert len(fake.hits) == 2


@pytest.mark.parametrize("model", ["no-done", "cut:700", "status:503"])
async def test_what_is_not_whole_is_never_cached(model: str, llm: LlmCaller, fake: FakeProvider) -> None:
    for number in (1, 2):
        with pytest.raises(Unavailable):
            await llm.call("Generate", repeatable(model))
        assert len(fake.hits) == number


async def test_another_question_has_another_answer(llm: LlmCaller, fake: FakeProvider) -> None:
    asked = [
        repeatable(),
        repeatable(prompt="Rivers?"),
        ask("ok", sampling=pb.Sampling(temperature=0, max_output_tokens=5)),
        ask("ok", sampling=pb.Sampling(temperature=0, stop=["."])),
        repeatable(tools=[pb.Tool(name="lookup", description="Looks up.")]),
        repeatable(response_format=pb.ResponseFormat(name="x")),
    ]
    assert {(await llm.call("Generate", one)).cache for one in asked} == {MISS}
    assert len(fake.hits) == len(asked)


async def test_tenants_share_nothing(llm: LlmCaller, fake: FakeProvider) -> None:
    for tenant in ("acme", "other"):
        assert (await llm.call("Generate", repeatable(), tenant=tenant)).cache == MISS
        assert (await llm.call("Embed", pb.EmbedRequest(inputs=["a"]), tenant=tenant)).cached == 0
    assert len(fake.hits) == 4
    assert (await llm.call("PurgeCache", pb.PurgeCacheRequest(), tenant="acme")).purged == 2
    assert (await llm.call("Generate", repeatable(), tenant="other")).cache == HIT
    assert (await llm.call("Generate", repeatable(), tenant="acme")).cache == MISS


async def test_a_purge_takes_the_models_that_fit(llm: LlmCaller) -> None:
    for model in ("ok", "tools", "reasoning"):
        await llm.call("Generate", repeatable(model))
    assert (await llm.call("PurgeCache", pb.PurgeCacheRequest(model_pattern="t*s"))).purged == 1
    outcomes = {m: (await llm.call("Generate", repeatable(m))).cache for m in ("ok", "tools", "reasoning")}
    assert outcomes == {"ok": HIT, "tools": MISS, "reasoning": HIT}


async def test_two_hundred_who_ask_the_same_at_once_are_one_call(llm: LlmCaller, fake: FakeProvider) -> None:
    asked = repeatable("slow:30")
    answers, streams = await asyncio.gather(
        asyncio.gather(*(llm.call("Generate", asked) for _ in range(40))),
        asyncio.gather(*(llm.stream(asked) for _ in range(40))),
    )
    assert len(fake.hits) == 1
    texts = {answer.message.parts[0].text for answer in answers} | {text_of(deltas) for deltas, _ in streams}
    assert len(texts) == 1
    outcomes = [answer.cache for answer in answers] + [deltas[-1].finish.cache for deltas, _ in streams]
    assert outcomes.count(MISS) == 1
    assert outcomes.count(COALESCED) == 79
    assert sum(answer.usage.llm_calls for answer in answers) + sum(d[-2].usage.llm_calls for d, _ in streams) == 1


async def test_the_first_caller_may_leave_and_the_last_one_ends_the_call(llm: LlmCaller, fake: FakeProvider) -> None:
    asked = repeatable("slow:200")
    leader = llm.open(asked)
    await until(lambda: fake.hits)
    follower = llm.open(asked)
    await follower.read()
    leader.cancel()
    await follower.read()
    assert not fake.hits[0].closed.is_set()
    follower.cancel()
    async with asyncio.timeout(5):
        await fake.hits[0].closed.wait()
    assert fake.hits[0].how == "client_gone"
    assert len(fake.hits) == 1


async def test_who_cancels_by_key_takes_the_answer_from_nobody_else(llm: LlmCaller, fake: FakeProvider) -> None:
    asked = repeatable("slow:200")
    keyed = pb.GenerateRequest()
    keyed.CopyFrom(asked)
    keyed.idempotency_key = "mine"
    mine = asyncio.create_task(llm.stream(keyed))
    await until(lambda: fake.hits)
    other = asyncio.create_task(llm.stream(asked))
    await asyncio.sleep(0.1)
    answer = await llm.call("CancelGenerate", pb.CancelGenerateRequest(idempotency_key="mine"))
    assert answer.canceled
    _, error = await mine
    assert isinstance(error, Canceled)
    deltas, error = await other
    assert error is None
    assert deltas[-1].HasField("finish")
    assert len(fake.hits) == 1


async def test_a_keyed_call_that_others_asked_for_first_is_theirs_and_joinable(
    llm: LlmCaller, fake: FakeProvider
) -> None:
    keyed = repeatable("slow:200", idempotency_key="mine")
    other = llm.open(repeatable("slow:200"))
    await until(lambda: fake.hits)
    mine = llm.open(keyed)
    await mine.read()
    other.cancel()
    mine.cancel()
    await asyncio.sleep(0.1)
    assert not fake.hits[0].closed.is_set()  # a key outlives its callers
    assert (await llm.call("Generate", keyed)).joined
    assert len(fake.hits) == 1


async def test_wrong_policies_are_refused(llm: LlmCaller, fake: FakeProvider) -> None:
    for policy in (pb.CachePolicy(ttl=Duration(seconds=-1)), pb.CachePolicy(ttl=Duration(seconds=10**8))):
        with pytest.raises(InvalidRequest) as raised:
            await llm.call("Generate", ask("ok", cache=policy))
        assert raised.value.violations[0][0] == "cache.ttl"
        with pytest.raises(MeshError):
            await llm.call("Embed", pb.EmbedRequest(inputs=["a"], cache=policy))
    assert not fake.hits
