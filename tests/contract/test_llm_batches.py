"""Texts of many callers in one call: nobody's many hold up another's few, and each pays exactly for its own."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from typing import Any

import pytest

from agentmesh.api.llm.v1 import llm_service_pb2 as pb
from agentmesh.kit import names
from agentmesh.kit.errors import DeadlineExceeded
from agentmesh.kit.model_settings import Provider
from agentmesh.kit.spend_settings import ModelPrice
from tests.support.fake_provider import FakeProvider
from tests.support.llm_service import LlmCaller, llm_service, provider
from tests.support.metrics import metric

BATCH = 8


@pytest.fixture
async def fake() -> AsyncIterator[FakeProvider]:
    """A provider whose model `held` answers when it is told to."""
    async with FakeProvider() as fake:
        yield fake


def described(fake: FakeProvider, *, share: bool = False) -> Provider:
    """Describe that provider, which takes few texts at a time, in one call at a time."""
    changes = {
        "embedding_batch": BATCH,
        "rerank_models": ("scores",),
        "completion_models": ("prompts",),
        "share_batches": share,
    }
    return provider(fake.base_url, embedding_models=["held", "vectors"]).model_copy(update=changes)


def embed(llm: LlmCaller, texts: Iterable[str], *, tenant: str = "acme", model: str = "held") -> "asyncio.Task[Any]":
    """Start a request for vectors that are never cached."""
    policy = pb.CachePolicy(mode=pb.CachePolicy.MODE_BYPASS)
    call = llm.call("Embed", pb.EmbedRequest(model=model, inputs=texts, dimensions=8, cache=policy), tenant=tenant)
    return asyncio.create_task(call)


async def until_asked(fake: FakeProvider, count: int) -> None:
    """Wait until the provider has so many calls."""
    async with asyncio.timeout(10):
        while len(fake.hits) < count:
            await asyncio.sleep(0.005)


def waiting(kind: str = "vector") -> float:
    """Return how many texts wait for a call."""
    return metric(names.LLM_BATCH_WAITING, kind=kind)


async def until_waiting(holds: Callable[[float], bool]) -> None:
    """Wait until the number of texts that wait is right."""
    async with asyncio.timeout(10):
        while not holds(waiting()):
            await asyncio.sleep(0.005)


def batches(fake: FakeProvider) -> list[list[str]]:
    """Return the texts of each call."""
    return [hit.body["input"] for hit in fake.hits if "input" in hit.body]


@pytest.mark.parametrize("callers", [1, 20])
async def test_a_single_text_goes_with_the_next_call_however_many_others_wait(fake: FakeProvider, callers: int) -> None:
    async with llm_service(described(fake)) as llm:
        first = embed(llm, ["first"])
        await until_asked(fake, 1)
        many = [embed(llm, [f"{n}: {text}" for text in range(256)]) for n in range(callers)]
        await until_waiting(lambda count: count + sum(map(len, batches(fake))) == 1 + callers * BATCH)
        before, stood = len(fake.hits), waiting()
        single = embed(llm, ["single"])
        await until_waiting(lambda count: count > stood)
        fake.let_go.set()
        await asyncio.gather(first, *many, single)
    place = next(at for at, texts in enumerate(batches(fake)) if "single" in texts)
    assert place - before <= callers // BATCH + 1  # a turn for each caller, and it is this one's


async def test_a_tenant_with_many_callers_does_not_hold_up_another_where_they_share(fake: FakeProvider) -> None:
    async with llm_service(described(fake, share=True)) as llm:
        first = embed(llm, ["first"])
        await until_asked(fake, 1)
        many = [embed(llm, [f"{n}: {text}" for text in range(BATCH)], tenant="noisy") for n in range(30)]
        await until_waiting(lambda count: count + sum(map(len, batches(fake))) == 1 + 30 * BATCH)
        before, stood = len(fake.hits), waiting()
        single = embed(llm, ["single"], tenant="quiet")
        await until_waiting(lambda count: count > stood)
        fake.let_go.set()
        await asyncio.gather(first, *many, single)
    assert "single" in batches(fake)[before]


async def test_texts_that_nobody_waits_for_any_more_are_not_sent(fake: FakeProvider) -> None:
    busy = described(fake)
    busy = busy.model_copy(update={"pool": busy.pool.model_copy(update={"max_in_flight": 1})})
    async with llm_service(busy) as llm:
        first = embed(llm, ["first"])
        await until_asked(fake, 1)
        request = pb.EmbedRequest(model="held", inputs=["late"])
        with pytest.raises(DeadlineExceeded):
            await llm.call("Embed", request, tenant="hasty", timeout_s=0.3)
        while metric(names.LLM_WAITING, provider="fake", priority="interactive"):
            await asyncio.sleep(0.005)
        fake.let_go.set()
        await first
        await embed(llm, ["next"])
    assert batches(fake) == [["first"], ["next"]]


@pytest.mark.parametrize("share", [False, True])
async def test_tenants_share_a_call_only_where_the_operator_says_so(fake: FakeProvider, share: bool) -> None:
    async with llm_service(described(fake, share=share)) as llm:
        first = embed(llm, ["first"], tenant="tenant-0")
        await until_asked(fake, 1)
        others = [embed(llm, ["same", f"{n}"], tenant=f"tenant-{n}") for n in range(1, 4)]
        await (until_waiting(lambda count: count == 6) if share else until_asked(fake, 4))
        fake.let_go.set()
        answers = await asyncio.gather(first, *others)
        requests: list[tuple[str, Any]] = [
            ("Rerank", pb.RerankRequest(model="scores", query="q", documents=["same"])),
            ("CompletePrompts", pb.CompletePromptsRequest(model="prompts", prompts=["same"])),
        ]
        for method, request in requests:
            calls = [llm.call(method, request, tenant=f"tenant-{n}") for n in range(3)]
            answers += await asyncio.gather(*calls)
    paths = [hit.path.rpartition("/")[2] for hit in fake.hits]
    counts = [paths.count(name) for name in ("embeddings", "rerank", "completions")]
    assert (max(counts) < 4) is share
    # Equal texts of different tenants are sent for each: one must not learn from what it pays what others ask.
    assert sum(texts.count("same") for texts in batches(fake)) == 3
    assert all(answer.usage.input_tokens and answer.cached == 0 for answer in answers)


async def test_the_shares_of_a_call_add_up_to_what_it_cost(fake: FakeProvider) -> None:
    price = ModelPrice(models="fake/*", input_usd=0.7, output_usd=0)
    async with llm_service(described(fake, share=True), prices=(price,)) as llm:
        first = embed(llm, ["first"], tenant="tenant-0")
        await until_asked(fake, 1)
        texts = [["one"], ["two two"], ["three " * 30, "four"]]
        others = [embed(llm, some, tenant=f"tenant-{n}") for n, some in enumerate(texts, 1)]
        await until_waiting(lambda count: count == 4)
        fake.let_go.set()
        answers = await asyncio.gather(first, *others)
        sums = [await llm.call("GetUsage", pb.GetUsageRequest(), tenant=f"tenant-{n}") for n in range(4)]
    assert len(fake.hits) == 2
    tokens = sum(map(len, batches(fake)))
    assert sum(answer.usage.input_tokens for answer in answers) == tokens
    assert sum(answer.usage.cost_nano_usd for answer in answers) == 700 * tokens
    for answer, found in zip(answers, sums, strict=True):
        (told,) = found.sums
        assert told.usage.input_tokens == answer.usage.input_tokens
        assert told.usage.cost_nano_usd == answer.usage.cost_nano_usd
        assert told.requests == 1


async def test_who_leaves_pays_for_what_was_sent_and_nothing_else(fake: FakeProvider) -> None:
    async with llm_service(described(fake)) as llm:
        sent = embed(llm, ["sent"], tenant="leaves")
        await until_asked(fake, 1)
        unsent = embed(llm, ["unsent"], tenant="leaves")
        await until_waiting(lambda count: count == 1)
        sent.cancel()
        unsent.cancel()
        await asyncio.wait([sent, unsent])
        await until_waiting(lambda count: count == 0)
        fake.let_go.set()
        async with asyncio.timeout(10):
            found = pb.GetUsageResponse()
            while not any(of.usage.llm_calls for of in found.sums):
                await asyncio.sleep(0.01)
                found = await llm.call("GetUsage", pb.GetUsageRequest(), tenant="leaves")
    assert (found.sums[0].usage.llm_calls, found.sums[0].usage.input_tokens) == (1, 1)
    assert batches(fake) == [["sent"]]
