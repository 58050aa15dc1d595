"""Prompts with equal sampling share a call; what is repeatable is written once, what isn't each time anew."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from agentmesh.api.llm.v1 import llm_service_pb2 as pb
from agentmesh.kit import names
from agentmesh.kit.errors import InvalidRequest, NotFound, Unavailable
from tests.support.fake_batches import completion_for
from tests.support.fake_provider import BAD_TEXT, FakeProvider
from tests.support.llm_service import LlmCaller, ask, llm_service, provider
from tests.support.metrics import metric

Mode = pb.CachePolicy.Mode
REPEATABLE = pb.Sampling(temperature=0)
MODELS = ("prompts", "ok", "held", "endless", "status:503")


@pytest.fixture
async def fake() -> AsyncIterator[FakeProvider]:
    """A provider that counts its calls."""
    async with FakeProvider() as fake:
        yield fake


@pytest.fixture(params=["http", "sdk"])
async def llm(request: pytest.FixtureRequest, fake: FakeProvider) -> AsyncIterator[LlmCaller]:
    """The service with that provider."""
    described = provider(fake.base_url, ["ok", "chat-only"], transport=request.param)
    async with llm_service(described.model_copy(update={"completion_models": MODELS, "completion_batch": 8})) as llm:
        yield llm


async def complete(
    llm: LlmCaller, *prompts: str, model: str = "prompts", **fields: object
) -> pb.CompletePromptsResponse:
    """Have prompts gone on with."""
    return await llm.call("CompletePrompts", pb.CompletePromptsRequest(model=model, prompts=prompts, **fields))  # type: ignore[arg-type]


def sent(fake: FakeProvider) -> list[str]:
    """Return every prompt that the provider was sent."""
    return [prompt for hit in fake.hits for prompt in hit.body["prompt"]]


async def test_each_prompt_gets_its_own_text_in_order(llm: LlmCaller, fake: FakeProvider) -> None:
    prompts = [f"prompt {number}" for number in range(20)]
    answer = await complete(llm, *prompts)
    assert [one.text for one in answer.completions] == list(map(completion_for, prompts))
    assert {one.finish_reason for one in answer.completions} == {pb.FINISH_REASON_STOP}
    assert (answer.usage.input_tokens, answer.usage.output_tokens) == (40, 100)
    assert [len(hit.body["prompt"]) for hit in fake.hits] == [8, 8, 4]


async def test_sampling_reaches_the_provider_and_keeps_calls_apart(llm: LlmCaller, fake: FakeProvider) -> None:
    sampling = pb.Sampling(
        temperature=0.5,
        top_p=0.9,
        max_output_tokens=7,
        stop=["."],
        seed=3,
        frequency_penalty=1,
        presence_penalty=-1,
        top_k=5,
    )
    await asyncio.gather(complete(llm, "a", sampling=sampling), complete(llm, "b"))
    bodies = {hit.body["prompt"][0]: hit.body for hit in fake.hits}
    assert bodies["b"].keys() == {"model", "prompt"}
    assert {key: value for key, value in bodies["a"].items() if key not in ("model", "prompt")} == {
        "temperature": 0.5,
        "top_p": 0.9,
        "max_tokens": 7,
        "stop": ["."],
        "seed": 3,
        "frequency_penalty": 1,
        "presence_penalty": -1,
        "top_k": 5,
    }


async def test_single_prompts_that_come_together_share_calls_and_pay_for_their_own(
    llm: LlmCaller, fake: FakeProvider
) -> None:
    prompts = [" ".join(["word"] * (number + 1)) for number in range(8)]
    asking = [asyncio.create_task(complete(llm, prompt, model="held")) for prompt in prompts]
    async with asyncio.timeout(10):
        while not fake.hits or metric(names.LLM_BATCH_WAITING, kind="completion") != 8 - len(sent(fake)):
            await asyncio.sleep(0.005)
    fake.let_go.set()
    answers = await asyncio.gather(*asking)
    assert [answer.completions[0].text for answer in answers] == list(map(completion_for, prompts))
    assert len(fake.hits) < 8
    assert [answer.usage.input_tokens for answer in answers] == list(range(1, 9))
    assert sum(answer.usage.output_tokens for answer in answers) == 8 * 5


async def test_what_is_repeatable_is_written_once(llm: LlmCaller, fake: FakeProvider) -> None:
    first = await complete(llm, "a", "b", "a", sampling=REPEATABLE)
    second = await complete(llm, "b", "c", sampling=REPEATABLE)
    assert (first.cached, second.cached, sent(fake)) == (0, 1, ["a", "b", "c"])
    assert second.completions[0] == first.completions[1]
    await complete(llm, "a", sampling=pb.Sampling(temperature=0, max_output_tokens=5))
    assert sent(fake) == ["a", "b", "c", "a"]
    with pytest.raises(NotFound):
        await complete(llm, "d", cache=pb.CachePolicy(mode=Mode.MODE_ONLY_IF_CACHED))


async def test_equal_prompts_are_asked_for_one_by_one_where_the_texts_may_differ(
    llm: LlmCaller, fake: FakeProvider
) -> None:
    await asyncio.gather(complete(llm, "a", "a"), complete(llm, "a"))
    assert sent(fake) == ["a", "a", "a"]


async def test_a_bad_prompt_fails_alone(llm: LlmCaller) -> None:
    good = [complete(llm, f"good {number}") for number in range(6)]
    outcomes = await asyncio.gather(*good, complete(llm, BAD_TEXT), return_exceptions=True)
    assert isinstance(outcomes[-1], InvalidRequest)
    assert all(isinstance(outcome, pb.CompletePromptsResponse) for outcome in outcomes[:-1])


@pytest.mark.parametrize("model", ["endless", "status:503"])
async def test_a_text_without_an_end_is_an_error_and_not_cached(llm: LlmCaller, fake: FakeProvider, model: str) -> None:
    for number in (1, 2):
        with pytest.raises(Unavailable):
            await complete(llm, "a", model=model, sampling=REPEATABLE)
        assert len(fake.hits) == number


async def test_a_model_may_take_conversations_and_prompts_or_one_of_them(llm: LlmCaller) -> None:
    assert (await complete(llm, "a", model="ok")).completions
    assert (await llm.call("Generate", ask("ok"))).message.parts
    assert (await complete(llm, "a", model="")).completions  # the default model takes prompts, too
    for call in (complete(llm, "a", model="chat-only"), llm.call("Generate", ask("prompts"))):
        with pytest.raises(InvalidRequest) as raised:
            await call
        assert raised.value.violations[0][0] == "model"


async def test_wrong_fields_are_named(llm: LlmCaller, fake: FakeProvider) -> None:
    for fields, path in (
        ({"prompts": []}, "prompts"),
        ({"prompts": ["a"] * 257}, "prompts"),
        ({"prompts": ["a", ""]}, "prompts[1]"),
        ({"sampling": pb.Sampling(temperature=3)}, "sampling.temperature"),
    ):
        asked = {"model": "prompts", "prompts": ["a"], **fields}
        with pytest.raises(InvalidRequest) as raised:
            await llm.call("CompletePrompts", pb.CompletePromptsRequest(**asked))  # type: ignore[arg-type]
        assert raised.value.violations[0][0] == path
    assert not fake.hits


async def test_without_any_provider_the_offline_model_goes_on() -> None:
    async with llm_service() as llm:
        answer = await complete(llm, "Rivers carry water.", "Hills stand.", model="")
    assert [one.text for one in answer.completions] == [
        "Offline model: Rivers carry water.",
        "Offline model: Hills stand.",
    ]
    assert answer.usage.output_tokens > 0
