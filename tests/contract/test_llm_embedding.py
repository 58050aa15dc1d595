"""Many requests for vectors are few calls, each text is asked for once, and a bad one fails alone."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from agentmesh.api.llm.v1 import llm_service_pb2 as pb
from agentmesh.kit.errors import InvalidRequest, NotFound, Unavailable
from tests.support.fake_openai import vector_for
from tests.support.fake_provider import BAD_TEXT, FakeProvider
from tests.support.llm_service import LlmCaller, llm_service, provider

Mode = pb.CachePolicy.Mode


@pytest.fixture
async def fake() -> AsyncIterator[FakeProvider]:
    """A provider that counts its calls."""
    async with FakeProvider() as fake:
        yield fake


@pytest.fixture
async def llm(fake: FakeProvider) -> AsyncIterator[LlmCaller]:
    """The service with that provider."""
    models = ["vectors", "slow-vectors:50", "status:503"]
    async with llm_service(provider(fake.base_url, embedding_models=models)) as llm:
        yield llm


def texts(fake: FakeProvider) -> list[str]:
    """Return every text that the provider was sent."""
    return [text for hit in fake.hits for text in hit.body["input"]]


async def embed(llm: LlmCaller, *inputs: str, model: str = "vectors", **fields: object) -> pb.EmbedResponse:
    """Ask for vectors of eight numbers."""
    return await llm.call("Embed", pb.EmbedRequest(model=model, inputs=inputs, dimensions=8, **fields))  # type: ignore[arg-type]


async def test_many_single_texts_at_once_are_few_calls_and_each_gets_its_own(
    llm: LlmCaller, fake: FakeProvider
) -> None:
    inputs = [f"text {number}" for number in range(90)]  # as many as one connection carries at a time
    answers = await asyncio.gather(*(embed(llm, text, model="slow-vectors:50") for text in inputs))
    for text, answer in zip(inputs, answers, strict=True):
        assert list(answer.embeddings[0].values) == vector_for(text, 8)
    assert len(fake.hits) <= 8
    assert sorted(texts(fake)) == sorted(inputs)


async def test_texts_that_come_one_after_the_other_share_calls_at_a_provider_that_is_quick_too(
    llm: LlmCaller, fake: FakeProvider
) -> None:
    asked = []
    for number in range(60):
        asked.append(asyncio.create_task(embed(llm, f"text {number}")))
        await asyncio.sleep(0.002)
    await asyncio.gather(*asked)
    assert sorted(texts(fake)) == sorted(f"text {number}" for number in range(60))
    assert len(fake.hits) <= 20  # without a wait they are twice as many


async def test_a_text_alone_is_a_call_of_its_own(llm: LlmCaller, fake: FakeProvider) -> None:
    await embed(llm, "a")
    await embed(llm, "b")
    assert [hit.body["input"] for hit in fake.hits] == [["a"], ["b"]]


async def test_a_text_is_asked_for_once_whoever_asks(llm: LlmCaller, fake: FakeProvider) -> None:
    first = await embed(llm, "a", "b", "a")
    second = await embed(llm, "b", "c")
    assert (first.cached, second.cached) == (0, 1)
    assert texts(fake) == ["a", "b", "c"]
    assert first.embeddings[0] == first.embeddings[2]
    assert second.embeddings[0] == first.embeddings[1]
    third = await embed(llm, "a", "c")
    assert (third.cached, third.usage.llm_calls, third.usage.input_tokens) == (2, 0, 0)
    together = await asyncio.gather(*(embed(llm, "d", model="slow-vectors:50") for _ in range(20)))
    assert texts(fake).count("d") <= 2  # those that came while it was under way wait for the next call
    assert sum(answer.usage.input_tokens for answer in together) <= 2


async def test_modes_are_kept(llm: LlmCaller, fake: FakeProvider) -> None:
    with pytest.raises(NotFound) as raised:
        await embed(llm, "a", cache=pb.CachePolicy(mode=Mode.MODE_ONLY_IF_CACHED))
    assert raised.value.reason == "NOT_CACHED"
    await embed(llm, "a", cache=pb.CachePolicy(mode=Mode.MODE_BYPASS))
    assert (await embed(llm, "a")).cached == 0
    assert (await embed(llm, "a", cache=pb.CachePolicy(mode=Mode.MODE_REFRESH))).cached == 0
    assert (await embed(llm, "a", cache=pb.CachePolicy(mode=Mode.MODE_ONLY_IF_CACHED))).cached == 1
    assert len(fake.hits) == 3


async def test_a_bad_text_fails_alone(llm: LlmCaller, fake: FakeProvider) -> None:
    good = [embed(llm, f"good {number}") for number in range(40)]
    outcomes = await asyncio.gather(*good, embed(llm, "with it", BAD_TEXT), return_exceptions=True)
    assert isinstance(outcomes[-1], InvalidRequest)
    assert all(isinstance(outcome, pb.EmbedResponse) for outcome in outcomes[:-1])
    with_it = [hit for hit in fake.hits if any(BAD_TEXT in text for text in hit.body["input"])]
    assert len(with_it) <= 7  # each time half of those that it was among
    assert len(fake.hits) < len(good)


async def test_many_texts_are_parted_by_what_the_provider_takes(fake: FakeProvider) -> None:
    few = provider(fake.base_url, embedding_models=["vectors"]).model_copy(update={"embedding_batch": 10})
    async with llm_service(few) as llm:
        answer = await embed(llm, *(f"text {number}" for number in range(35)))
    assert [len(hit.body["input"]) for hit in fake.hits] == [10, 10, 10, 5]
    assert [list(e.values) for e in answer.embeddings] == [vector_for(f"text {n}", 8) for n in range(35)]
    assert answer.usage.input_tokens == 35  # as the provider counted over its four calls


async def test_tenants_never_share_a_call(llm: LlmCaller, fake: FakeProvider) -> None:
    request = pb.EmbedRequest(model="slow-vectors:50", inputs=["same"], dimensions=8)
    tenants = [f"tenant-{number}" for number in range(5)]
    await asyncio.gather(*(llm.call("Embed", request, tenant=tenant) for tenant in tenants for _ in range(4)))
    assert all(len(hit.body["input"]) == 1 for hit in fake.hits)
    assert len(tenants) <= len(fake.hits) <= 2 * len(tenants)


async def test_what_fails_is_not_cached_and_fails_everybody_who_waited(llm: LlmCaller, fake: FakeProvider) -> None:
    outcomes = await asyncio.gather(
        *(embed(llm, f"text {number}", model="status:503") for number in range(5)), return_exceptions=True
    )
    assert all(isinstance(outcome, Unavailable) for outcome in outcomes)
    with pytest.raises(Unavailable):
        await embed(llm, "text 0", model="status:503")
