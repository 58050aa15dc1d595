"""Documents are ordered by how well they fit; each is held against a query once, and a bad one fails alone."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from agentmesh.api.llm.v1 import llm_service_pb2 as pb
from agentmesh.kit import names
from agentmesh.kit.errors import InvalidRequest, NotFound, Unavailable
from tests.support.fake_batches import score_for
from tests.support.fake_provider import BAD_TEXT, FakeProvider
from tests.support.llm_service import LlmCaller, llm_service, provider
from tests.support.metrics import metric

Mode = pb.CachePolicy.Mode
MODELS = ("scores", "cohere", "held", "status:503", "html")


@pytest.fixture
async def fake() -> AsyncIterator[FakeProvider]:
    """A provider that counts its calls."""
    async with FakeProvider() as fake:
        yield fake


@pytest.fixture(params=["http", "sdk"])
async def llm(request: pytest.FixtureRequest, fake: FakeProvider) -> AsyncIterator[LlmCaller]:
    """The service with that provider."""
    described = provider(fake.base_url, ["ok"], transport=request.param).model_copy(
        update={"rerank_models": MODELS, "rerank_batch": 8}
    )
    async with llm_service(described) as llm:
        yield llm


async def rerank(llm: LlmCaller, *documents: str, query: str = "rivers", **fields: object) -> pb.RerankResponse:
    """Have documents ordered."""
    fields = {"model": "scores", **fields}
    return await llm.call("Rerank", pb.RerankRequest(query=query, documents=documents, **fields))  # type: ignore[arg-type]


def sent(fake: FakeProvider) -> list[str]:
    """Return every document that the provider was sent."""
    return [document for hit in fake.hits for document in hit.body["documents"]]


async def test_the_best_documents_come_first(llm: LlmCaller) -> None:
    documents = [f"document {number}" for number in range(30)]
    whole = await rerank(llm, *documents)
    expected = sorted(((score_for("rivers", text), at) for at, text in enumerate(documents)), reverse=True)
    assert [(ranking.score, ranking.document) for ranking in whole.rankings] == expected
    assert whole.usage.input_tokens == 30 * 3  # as the provider counted over its four calls
    few = await rerank(llm, *documents, top_n=3)
    assert few.rankings == whole.rankings[:3]
    assert (few.cached, few.usage.llm_calls, few.usage.input_tokens) == (30, 0, 0)


async def test_a_document_is_held_against_a_query_once_whoever_asks(llm: LlmCaller, fake: FakeProvider) -> None:
    first = await rerank(llm, "a", "b", "a")
    second = await rerank(llm, "b", "c")
    assert (first.cached, second.cached, sent(fake)) == (0, 1, ["a", "b", "c"])
    assert len(first.rankings) == 3
    await rerank(llm, "a", query="lakes")
    assert sent(fake) == ["a", "b", "c", "a"]
    with pytest.raises(NotFound):
        await rerank(llm, "a", "d", cache=pb.CachePolicy(mode=Mode.MODE_ONLY_IF_CACHED))


async def test_requests_with_the_same_query_share_a_call_and_others_do_not(llm: LlmCaller, fake: FakeProvider) -> None:
    first = asyncio.create_task(rerank(llm, "first", model="held"))
    while not fake.hits:
        await asyncio.sleep(0.005)
    others = [asyncio.create_task(rerank(llm, f"d{number}", "both", model="held")) for number in range(4)]
    other = asyncio.create_task(rerank(llm, "d0", query="lakes", model="held"))
    while len(fake.hits) < 2 or metric(names.LLM_BATCH_WAITING, kind="score") != 8:
        await asyncio.sleep(0.005)
    fake.let_go.set()
    answers = await asyncio.gather(first, *others, other)
    assert sorted(len(hit.body["documents"]) for hit in fake.hits) == [1, 1, 5]
    assert sum(answer.usage.input_tokens for answer in answers) == 2 * len(sent(fake))


@pytest.mark.parametrize("model", ["scores", "cohere"])
async def test_tokens_are_read_wherever_a_vendor_tells_them(llm: LlmCaller, model: str) -> None:
    answer = await rerank(llm, "two words", model=model)
    assert answer.usage.input_tokens == 3


async def test_a_bad_document_fails_alone(llm: LlmCaller) -> None:
    good = [rerank(llm, f"good {number}") for number in range(6)]
    outcomes = await asyncio.gather(*good, rerank(llm, BAD_TEXT), return_exceptions=True)
    assert isinstance(outcomes[-1], InvalidRequest)
    assert all(isinstance(outcome, pb.RerankResponse) for outcome in outcomes[:-1])


@pytest.mark.parametrize("model", ["status:503", "html"])
async def test_what_is_no_answer_is_an_error(llm: LlmCaller, model: str) -> None:
    with pytest.raises(Unavailable):
        await rerank(llm, "a", model=model)


async def test_wrong_fields_are_named(llm: LlmCaller, fake: FakeProvider) -> None:
    for fields, path in (
        ({"query": ""}, "query"),
        ({"documents": []}, "documents"),
        ({"documents": ["a", ""]}, "documents[1]"),
        ({"top_n": -1}, "top_n"),
        ({"model": "ok"}, "model"),
    ):
        asked = {"model": "scores", "query": "q", "documents": ["a"], **fields}
        with pytest.raises(InvalidRequest) as raised:
            await llm.call("Rerank", pb.RerankRequest(**asked))  # type: ignore[arg-type]
        assert raised.value.violations[0][0] == path
    assert not fake.hits


async def test_without_any_provider_documents_are_ordered_by_their_words() -> None:
    async with llm_service() as llm:
        answer = await llm.call(
            "Rerank", pb.RerankRequest(query="clear rivers", documents=["Hills.", "Clear rivers run.", "Rivers run."])
        )
    assert [ranking.document for ranking in answer.rankings] == [1, 2, 0]
    assert answer.model == "offline-rerank"
