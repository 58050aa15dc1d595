"""What OpenAI's wire carries beyond text: likelihoods, effort, penalties, strict tools, and errors with a cause."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
from google.protobuf.struct_pb2 import Struct

from agentmesh.api.llm.v1 import llm_service_pb2 as pb
from agentmesh.api.types.v1 import types_pb2
from agentmesh.kit.answers import fold
from agentmesh.kit.errors import InvalidRequest, ResourceExhausted
from agentmesh_llm.adapters import openai_steering, openai_wire
from agentmesh_llm.domain import Message, Question, Role, Sampling, TextPart, Thought
from tests.support.fake_openai import answer_for, logprob_for
from tests.support.fake_provider import FakeProvider
from tests.support.llm_service import LlmCaller, ask, llm_service, provider
from tests.support.llm_ways import WAYS

MODELS = ("ok", "old", "tools", "reasoning", "stop:content_filter")


@pytest.fixture
async def fake() -> AsyncIterator[FakeProvider]:
    async with FakeProvider() as fake:
        yield fake


@pytest.fixture(params=["chat", "chat-sdk"])
async def llm(request: pytest.FixtureRequest, fake: FakeProvider) -> AsyncIterator[LlmCaller]:
    async with llm_service(provider(fake.base_url, MODELS, **WAYS[request.param].settings)) as llm:
        yield llm


def tool(**fields: Any) -> pb.Tool:
    schema = Struct()
    schema.update({"type": "object", "properties": {"number": {"type": "integer"}}})
    return pb.Tool(name="lookup", parameters=schema, **fields)


async def test_every_field_that_is_given_reaches_the_provider(llm: LlmCaller, fake: FakeProvider) -> None:
    asked = ask(
        tools=[tool(strict=True)],
        parallel_tool_calls=False,
        reasoning=pb.Reasoning(effort=pb.Reasoning.EFFORT_XHIGH, max_tokens=5000),
        sampling=pb.Sampling(frequency_penalty=-1.5, presence_penalty=0, top_k=7),
        top_logprobs=2,
        prompt_cache_key="a hint",
    )
    await llm.call("Generate", asked)
    sent = fake.hits[0].body
    assert sent["tools"][0]["function"]["strict"] is True
    assert (sent["parallel_tool_calls"], sent["reasoning_effort"], sent["top_k"]) == (False, "xhigh", 7)
    assert (sent["frequency_penalty"], sent["presence_penalty"]) == (-1.5, 0)
    assert (sent["logprobs"], sent["top_logprobs"]) == (True, 2)
    # It changes nothing in the answer, and this server might refuse what it doesn't know.
    assert "prompt_cache_key" not in sent


async def test_nothing_is_sent_that_was_not_given(llm: LlmCaller, fake: FakeProvider) -> None:
    await llm.call("Generate", ask("old", tools=[tool()]))
    await llm.call("Generate", ask("old", parallel_tool_calls=False, reasoning=pb.Reasoning(max_tokens=5000)))
    for hit in fake.hits:
        known = {"model", "messages", "stream", "stream_options", "tools", "tool_choice"}
        assert set(hit.body) <= known, hit.body
    assert "strict" not in fake.hits[0].body["tools"][0]["function"]


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"top_logprobs": 0}, "top_logprobs"),
        ({"reasoning": pb.Reasoning(effort=pb.Reasoning.EFFORT_LOW)}, "reasoning.effort"),
        ({"sampling": pb.Sampling(presence_penalty=1)}, "sampling.presence_penalty"),
        ({"sampling": pb.Sampling(top_k=3)}, "sampling.top_k"),
        ({"tools": [tool()], "parallel_tool_calls": True}, "parallel_tool_calls"),
    ],
)
async def test_a_field_that_the_server_does_not_know_is_named(
    fields: dict[str, Any], field: str, llm: LlmCaller
) -> None:
    with pytest.raises(InvalidRequest) as raised:
        await llm.call("Generate", ask("old", **fields))
    assert raised.value.reason == "PROVIDER_REFUSED"
    assert [name for name, _ in raised.value.violations] == [field]
    assert "CANARY" not in repr(raised.value.__dict__)


@pytest.mark.parametrize(
    ("address", "is_openai"),
    [
        ("https://api.openai.com/v1", True),
        ("https://eu.api.openai.com/v1", True),
        ("https://api.openai.com.example.org/v1", False),
        ("http://127.0.0.1:11434/v1", False),
    ],
)
def test_openai_itself_gets_its_cache_key_and_is_never_asked_for_the_k_likeliest(address: str, is_openai: bool) -> None:
    dialect = openai_steering.dialect_of(address)
    question = Question("m", (Message(Role.USER, (TextPart("hi"),)),), prompt_cache_key="k")
    assert (b'"prompt_cache_key":"k"' in openai_wire.question_body(question, dialect)) == is_openai
    likeliest = Question("m", question.messages, sampling=Sampling(top_k=3))
    if is_openai:
        thoughts = (Message(Role.ASSISTANT, (TextPart("hi"),), thoughts=(Thought("hm"),)),)
        assert b"hm" not in openai_wire.question_body(Question("m", thoughts), dialect)
        with pytest.raises(InvalidRequest) as raised:
            openai_wire.question_body(likeliest, dialect)
        assert [name for name, _ in raised.value.violations] == ["sampling.top_k"]
    else:
        assert b'"top_k":3' in openai_wire.question_body(likeliest, dialect)


@pytest.mark.parametrize("alternatives", [0, 2])
async def test_each_token_says_how_likely_it_was(alternatives: int, llm: LlmCaller, fake: FakeProvider) -> None:
    deltas, error = await llm.stream(ask(top_logprobs=alternatives))
    assert error is None
    whole = await llm.call("Generate", ask(top_logprobs=alternatives))
    streamed = fold(deltas)
    assert list(streamed.logprobs) == list(whole.logprobs)
    tokens = [f" {word}" for word in answer_for(fake.hits[0].body).split(" ")]
    assert [token.token for token in whole.logprobs] == tokens
    for token, text in zip(whole.logprobs, tokens, strict=True):
        told = logprob_for(text, alternatives)
        assert (token.logprob, token.utf8) == (told["logprob"], text.encode())
        others = [(one.token, one.logprob, list(one.utf8)) for one in token.alternatives]
        expected = [(one["token"], one["logprob"], one["bytes"] or []) for one in told["top_logprobs"]]
        assert others == expected


async def test_likelihoods_come_only_when_asked_for(llm: LlmCaller) -> None:
    deltas, _ = await llm.stream(ask())
    assert not any(delta.HasField("logprobs") for delta in deltas)


async def test_likelihoods_are_cached_with_the_answer_that_they_belong_to(llm: LlmCaller, fake: FakeProvider) -> None:
    still = pb.Sampling(temperature=0)
    first, _ = await llm.stream(ask(top_logprobs=1, sampling=still))
    again = await llm.call("Generate", ask(top_logprobs=1, sampling=still))
    assert again.cache == pb.CACHE_OUTCOME_HIT
    assert list(again.logprobs) == list(fold(first).logprobs) != []
    replayed, _ = await llm.stream(ask(top_logprobs=1, sampling=still))
    assert fold(replayed).logprobs == again.logprobs
    # An answer without them is no answer to this question, nor the other way round.
    other = await llm.call("Generate", ask(sampling=still))
    assert (other.cache, len(other.logprobs), len(fake.hits)) == (pb.CACHE_OUTCOME_MISS, 0, 2)


async def test_one_call_at_a_time_is_the_callers_to_ask(llm: LlmCaller) -> None:
    several = await llm.call("Generate", ask("tools", tools=[tool()]))
    one = await llm.call("Generate", ask("tools", tools=[tool()], parallel_tool_calls=False))
    assert (len(several.message.tool_calls), len(one.message.tool_calls)) == (2, 1)


async def test_tokens_that_went_into_thinking_are_counted(llm: LlmCaller) -> None:
    answer = await llm.call("Generate", ask("reasoning"))
    assert (answer.usage.reasoning_tokens, answer.usage.cache_write_tokens) == (2, 0)
    assert answer.usage.cached_input_tokens > 0


async def test_what_another_provider_thought_stays_away(llm: LlmCaller, fake: FakeProvider) -> None:
    asked = ask()
    thought = pb.Thought(text="CANARY-THOUGHT", signature="sig")
    said = [types_pb2.Part(text="hello")]
    mark = pb.CacheBreakpoint(part=0)
    asked.messages.append(
        pb.ChatMessage(role=pb.CHAT_ROLE_ASSISTANT, parts=said, thoughts=[thought], cache_breakpoints=[mark])
    )
    await llm.call("Generate", asked)
    assert fake.hits[0].body["messages"][1] == {"role": "assistant", "content": "hello"}


async def test_reasoning_goes_back_to_a_server_of_openais_wire_when_a_caller_sends_it(
    llm: LlmCaller, fake: FakeProvider
) -> None:
    asked = ask()
    said = [types_pb2.Part(text="hello")]
    thoughts = [pb.Thought(text="Hm, "), pb.Thought(text="so.")]
    asked.messages.append(pb.ChatMessage(role=pb.CHAT_ROLE_ASSISTANT, parts=said, thoughts=thoughts))
    await llm.call("Generate", asked)
    assert fake.hits[0].body["messages"][1]["reasoning_content"] == "Hm, so."


async def test_an_answer_that_the_filter_ends_says_so_and_is_not_cached(llm: LlmCaller, fake: FakeProvider) -> None:
    for _ in range(2):
        answer = await llm.call("Generate", ask("stop:content_filter", sampling=pb.Sampling(seed=1)))
        assert answer.finish_reason == pb.FINISH_REASON_CONTENT_FILTER
    assert len(fake.hits) == 2


async def test_the_offline_model_does_not_pretend_to_know_likelihoods(llm: LlmCaller) -> None:
    with pytest.raises(InvalidRequest) as raised:
        await llm.call("Generate", ask("offline", top_logprobs=1))
    assert [name for name, _ in raised.value.violations] == ["top_logprobs"]
    asked = ask("offline", reasoning=pb.Reasoning(effort=pb.Reasoning.EFFORT_HIGH), sampling=pb.Sampling(top_k=1))
    assert (await llm.call("Generate", asked)).message.parts[0].text.startswith("Offline model:")


async def test_a_part_beyond_the_contracts_bound_reaches_nobody(llm: LlmCaller, fake: FakeProvider) -> None:
    asked = ask()
    asked.messages[0].parts.append(types_pb2.Part(raw=b"x" * (5 * 1024 * 1024), media_type="image/png"))
    with pytest.raises(ResourceExhausted) as raised:
        await llm.call("Generate", asked)
    assert raised.value.reason == "MESSAGE_TOO_LARGE"
    assert fake.hits == []
