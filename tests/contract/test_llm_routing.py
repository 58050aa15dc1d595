"""A model at several places: calls are spread, what fails before its first word goes elsewhere, limits are kept."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest

from agentmesh.api.llm.v1 import llm_service_pb2 as pb
from agentmesh.kit.errors import InvalidRequest, NotFound, ResourceExhausted, Unavailable
from agentmesh.kit.model_settings import Llm, ModelAlias, Provider
from tests.support.fake_provider import FakeProvider
from tests.support.llm_service import LlmCaller, ask, llm_service, provider, text_of
from tests.support.metrics import metric

BAD = ["status:503", "status:401", "status:404", "rate-limited:30", "reset:0", "html", "no-done"]


def at(fake: FakeProvider, name: str, *models: str, vectors: tuple[str, ...] = ()) -> Provider:
    """Describe a fake provider under a name."""
    return provider(fake.base_url, models, embedding_models=vectors).model_copy(update={"name": name})


@pytest.fixture
async def fakes() -> AsyncIterator[tuple[FakeProvider, FakeProvider]]:
    """Two providers that count their calls."""
    async with FakeProvider() as one, FakeProvider() as two:
        yield one, two


@asynccontextmanager
async def service(fakes: tuple[FakeProvider, FakeProvider], *aliases: dict[str, Any]) -> AsyncIterator[LlmCaller]:
    """Run the service with `one`, which has what fails, and `two`, which works."""
    one, two = fakes
    async with AsyncExitStack() as stack:
        yield await stack.enter_async_context(
            llm_service(
                at(one, "one", "ok", "slow:20", *BAD, vectors=("vectors",)),
                at(two, "two", "ok", "slow:30", vectors=("vectors",)),
                aliases=tuple(ModelAlias(**alias) for alias in aliases),
            )
        )


@pytest.mark.parametrize("bad", ["status:503", "status:401", "status:404", "rate-limited:30", "reset:0", "html"])
async def test_what_fails_before_its_first_word_is_answered_elsewhere(
    fakes: tuple[FakeProvider, FakeProvider], bad: str
) -> None:
    alias = {"name": "best", "models": (f"one/{bad}",), "fallbacks": ("two/ok",)}
    async with service(fakes, alias) as llm:
        answer = await llm.call("Generate", ask("best"))
        deltas, error = await llm.stream(ask("best"))
    assert error is None
    assert (answer.provider, deltas[-1].finish.provider) == ("two", "two")
    assert text_of(deltas) == answer.message.parts[0].text
    assert len(fakes[1].hits) == 2


async def test_a_request_names_fallbacks_of_its_own(fakes: tuple[FakeProvider, FakeProvider]) -> None:
    async with service(fakes) as llm:
        answer = await llm.call("Generate", ask("status:503", fallbacks=["reset:0", "two/ok"]))
        assert answer.provider == "two"
        assert [hit.model for hit in fakes[0].hits] == ["status:503", "reset:0"]
        with pytest.raises(NotFound):
            await llm.call("Generate", ask("ok", fallbacks=["nowhere"]))
        with pytest.raises(InvalidRequest) as raised:
            await llm.call("Generate", ask("ok", fallbacks=["ok"] * 5))
        assert raised.value.violations[0][0] == "fallbacks"


async def test_after_the_first_word_an_answer_breaks_off_honestly(fakes: tuple[FakeProvider, FakeProvider]) -> None:
    async with service(fakes) as llm:
        deltas, error = await llm.stream(ask("no-done", fallbacks=["two/ok"]))
    assert text_of(deltas)
    assert isinstance(error, Unavailable)
    assert error.reason == "STREAM_INTERRUPTED"
    assert not fakes[1].hits


async def test_calls_are_spread_over_the_places_of_an_alias(fakes: tuple[FakeProvider, FakeProvider]) -> None:
    async with service(fakes, {"name": "both", "models": ("one/slow:20", "two/slow:30")}) as llm:
        await asyncio.gather(*(llm.call("Generate", ask("both")) for _ in range(40)))
    one, two = (len(fake.hits) for fake in fakes)
    assert one + two == 40
    assert min(one, two) >= 5


async def test_a_place_that_asked_for_patience_is_left_alone_and_nobody_waits_for_it(
    fakes: tuple[FakeProvider, FakeProvider],
) -> None:
    alias = {"name": "both", "models": ("one/rate-limited:30", "two/ok")}
    async with service(fakes, alias) as llm:
        for _ in range(10):
            assert (await llm.call("Generate", ask("both"))).provider == "two"
        assert len(fakes[0].hits) <= 1
        for number in range(3):
            with pytest.raises(ResourceExhausted) as raised:
                await llm.call("Generate", ask("rate-limited:30"))
            assert raised.value.retry_after_s is not None
            assert 20 < raised.value.retry_after_s <= 30, number
        assert len(fakes[0].hits) == 1
        assert metric("agentmesh_llm_open", provider="one", model="rate-limited:30") == 0
        assert metric("agentmesh_llm_open", provider="two", model="ok") == 1


async def test_a_place_that_is_down_is_asked_no_more_than_now_and_then(
    fakes: tuple[FakeProvider, FakeProvider],
) -> None:
    async with service(fakes) as llm:
        for _ in range(30):
            with pytest.raises(Unavailable) as raised:
                await llm.call("Generate", ask("status:503"))
            assert raised.value.retry_after_s
    assert 5 <= len(fakes[0].hits) <= 7


async def test_a_fallbacks_answer_is_never_kept_as_the_models_own(fakes: tuple[FakeProvider, FakeProvider]) -> None:
    asked = ask("status:503", fallbacks=["one/ok"], sampling=pb.Sampling(temperature=0))
    async with service(fakes) as llm:
        for _ in range(2):
            answer = await llm.call("Generate", asked)
            assert (answer.provider, answer.cache) == ("one", pb.CACHE_OUTCOME_MISS)
    assert [hit.model for hit in fakes[0].hits] == ["status:503", "ok"] * 2


async def test_vectors_come_from_another_place_of_the_same_model(fakes: tuple[FakeProvider, FakeProvider]) -> None:
    one, two = fakes
    broken = at(one, "one", vectors=("status:503",))
    works = at(two, "two", vectors=("vectors",))
    alias = ModelAlias(name="vec", models=("one/status:503", "two/vectors"))
    async with llm_service(broken, works, aliases=(alias,)) as llm:
        answer = await llm.call("Embed", pb.EmbedRequest(model="vec", inputs=["a"]))
    assert len(answer.embeddings) == 1
    assert len(two.hits) == 1


@pytest.mark.parametrize(
    ("alias", "text"),
    [
        ({"name": "x", "models": ("nowhere",)}, "in no provider's models"),
        ({"name": "x", "models": ("ok",), "fallbacks": ("nowhere",)}, "in no provider's models"),
        ({"name": "x", "models": ("ok", "vectors")}, "do different things"),
    ],
)
def test_an_alias_that_stands_for_nothing_is_refused(alias: dict[str, Any], text: str) -> None:
    some = provider("http://127.0.0.1:1/v1", ["ok"], embedding_models=["vectors"])
    with pytest.raises(ValueError, match=text):
        Llm(providers=(some,), aliases=(ModelAlias(**alias),))


async def test_an_alias_is_a_model_like_any_other(fakes: tuple[FakeProvider, FakeProvider]) -> None:
    async with service(fakes, {"name": "best", "models": ("one/ok", "two/ok")}) as llm:
        listed = await llm.call("ListModels", pb.ListModelsRequest())
        (best,) = [model for model in listed.models if model.id == "best"]
        assert best.provider == "one,two"
        asked = ask("best", sampling=pb.Sampling(temperature=0))
        assert [(await llm.call("Generate", asked)).cache for _ in range(2)] == [
            pb.CACHE_OUTCOME_MISS,
            pb.CACHE_OUTCOME_HIT,
        ]


@pytest.mark.parametrize(("prompt_audio", "fields"), [(False, {"top_logprobs": 1}), (True, {})])
async def test_what_a_provider_has_no_form_for_is_asked_where_there_is_one(
    fakes: tuple[FakeProvider, FakeProvider], prompt_audio: bool, fields: dict[str, Any]
) -> None:
    one, two = fakes
    claude = provider(one.base_url, ["ok"], kind="anthropic").model_copy(update={"name": "one"})
    alias = ModelAlias(name="best", models=("one/ok",), fallbacks=("two/ok",))
    asked = ask("best", **fields)
    if prompt_audio:
        asked.messages[0].parts.add(raw=b"RIFF", media_type="audio/wav")
    async with llm_service(claude, at(two, "two", "ok"), aliases=(alias,)) as llm:
        answer = await llm.call("Generate", asked)
        assert (answer.provider, len(one.hits), len(two.hits)) == ("two", 0, 1)
        asked.model = "one/ok"
        with pytest.raises(InvalidRequest):
            await llm.call("Generate", asked)
