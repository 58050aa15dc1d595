"""What only Anthropic's wire has: its blocks, its counts, its errors, and what it doesn't do."""

import json
from collections.abc import AsyncIterator

import pytest
from google.protobuf.struct_pb2 import Struct

from agentmesh.api.llm.v1 import llm_service_pb2 as pb
from agentmesh.api.types.v1 import types_pb2
from agentmesh.kit.errors import InvalidRequest, NotFound, ResourceExhausted, Unavailable, WrongState
from agentmesh_llm.domain import EmbedQuestion
from agentmesh_llm.routing.offering import open_provider
from tests.support.fake_anthropic import usage_for
from tests.support.fake_openai import answer_for
from tests.support.fake_provider import FakeProvider
from tests.support.llm_service import LlmCaller, ask, llm_service, provider, text_of
from tests.support.llm_ways import WAYS

ERRORS = {
    "status:413": (InvalidRequest, "REQUEST_TOO_LARGE"),
    "status:402": (InvalidRequest, "PROVIDER_REFUSED"),
    "error-event:overloaded_error": (Unavailable, "PROVIDER_FAILED"),
    "error-event:rate_limit_error": (ResourceExhausted, "PROVIDER_RATE_LIMITED"),
    "error-event:invalid_request_error": (InvalidRequest, "PROVIDER_REFUSED"),
    "error-event:authentication_error": (WrongState, "PROVIDER_CREDENTIAL"),
    "error-event:not_found_error": (NotFound, "MODEL_NOT_FOUND"),
}
MODELS = ("ok", "tools", "bare", "reasoning", "novel", "picky", "long:300", "stop:refusal", "stop:max_tokens", *ERRORS)


@pytest.fixture
async def fake() -> AsyncIterator[FakeProvider]:
    async with FakeProvider() as fake:
        yield fake


@pytest.fixture(params=["anthropic", "anthropic-sdk"])
async def llm(request: pytest.FixtureRequest, fake: FakeProvider) -> AsyncIterator[LlmCaller]:
    async with llm_service(provider(fake.base_url, MODELS, **WAYS[request.param].settings)) as llm:
        yield llm


def tool() -> pb.Tool:
    """Describe a tool that takes a number."""
    schema = Struct()
    schema.update({"type": "object", "properties": {"number": {"type": "integer"}}})
    return pb.Tool(name="lookup", description="Looks a number up.", parameters=schema)


async def test_the_request_is_the_apis(llm: LlmCaller, fake: FakeProvider) -> None:
    asked = ask(sampling=pb.Sampling(temperature=0.5, max_output_tokens=7, stop=["END"], seed=3))
    asked.messages.insert(0, pb.ChatMessage(role=pb.CHAT_ROLE_SYSTEM, parts=[types_pb2.Part(text="Be brief.")]))
    asked.messages[1].parts.append(types_pb2.Part(raw=b"\x89PNG", media_type="image/png"))
    await llm.call("Generate", asked)
    hit = fake.hits[0]
    assert (hit.path, hit.headers["anthropic-version"]) == ("/v1/messages", "2023-06-01")
    assert hit.body == {
        "model": "ok",
        "max_tokens": 7,
        "system": "Be brief.",
        "messages": [
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": asked.messages[1].parts[0].text},
                    {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "iVBORw=="}},
                ],
            }
        ],
        "temperature": 0.5,
        "stop_sequences": ["END"],
        "stream": True,
    }


async def test_tools_make_the_round_trip(llm: LlmCaller, fake: FakeProvider) -> None:
    asked = ask("tools", tools=[tool()], tool_choice=pb.ToolChoice(mode=pb.ToolChoice.MODE_NAMED, name="lookup"))
    response = await llm.call("Generate", asked)
    assert response.finish_reason == pb.FINISH_REASON_TOOL_CALLS
    assert response.message.parts[0].text == "Let me look."
    assert [(c.id, c.name, json.loads(c.arguments)) for c in response.message.tool_calls] == [
        ("toolu_0", "lookup", {"number": 0}),
        ("toolu_1", "lookup", {"number": 1}),
    ]
    assert fake.hits[0].body["tool_choice"] == {"type": "tool", "name": "lookup"}

    asked.messages.append(response.message)
    for use in response.message.tool_calls:
        parts = [types_pb2.Part(text="found")]
        asked.messages.append(pb.ChatMessage(role=pb.CHAT_ROLE_TOOL, parts=parts, tool_call_id=use.id))
    answer = await llm.call("Generate", asked)
    assert answer.finish_reason == pb.FINISH_REASON_STOP
    turns = [(t["role"], [b["type"] for b in t["content"]]) for t in fake.hits[1].body["messages"]]
    assert turns == [
        ("user", ["text"]),
        ("assistant", ["text", "tool_use", "tool_use"]),
        ("user", ["tool_result", "tool_result"]),
    ]


async def test_a_call_without_arguments_has_an_empty_object(llm: LlmCaller) -> None:
    response = await llm.call("Generate", ask("bare", tools=[tool()]))
    assert [call.arguments for call in response.message.tool_calls] == ["{}"]


async def test_arguments_that_are_no_object_reach_nobody(llm: LlmCaller, fake: FakeProvider) -> None:
    asked = ask()
    call = pb.ToolUse(id="t", name="lookup", arguments="{broken")
    asked.messages.append(pb.ChatMessage(role=pb.CHAT_ROLE_ASSISTANT, tool_calls=[call]))
    with pytest.raises(InvalidRequest) as raised:
        await llm.call("Generate", asked)
    assert raised.value.violations == (("messages[1].tool_calls[0].arguments", "must be a JSON object"),)
    assert not fake.hits


async def test_reasoning_is_apart_from_the_answer(llm: LlmCaller) -> None:
    response = await llm.call("Generate", ask("reasoning"))
    assert response.reasoning == "Hm, so be it."
    assert "Hm" not in response.message.parts[0].text


async def test_usage_is_the_providers_own_count(llm: LlmCaller, fake: FakeProvider) -> None:
    response = await llm.call("Generate", ask())
    counts = usage_for(fake.hits[0].body)
    assert response.usage.output_tokens == counts.pop("output_tokens")
    assert response.usage.input_tokens == sum(counts.values())
    assert response.usage.cached_input_tokens == counts["cache_read_input_tokens"] > 0


async def test_what_nobody_knows_yet_is_skipped(llm: LlmCaller, fake: FakeProvider) -> None:
    deltas, error = await llm.stream(ask("novel"))
    assert error is None
    assert text_of(deltas) == " " + answer_for(fake.hits[0].body)
    assert not any(delta.HasField("tool_call") for delta in deltas)


async def test_a_long_answer_is_whole(llm: LlmCaller) -> None:
    response = await llm.call("Generate", ask("long:300"))
    assert response.message.parts[0].text == "".join(f"{number} " for number in range(300))


@pytest.mark.parametrize(
    ("model", "reason"),
    [("stop:refusal", pb.FINISH_REASON_CONTENT_FILTER), ("stop:max_tokens", pb.FINISH_REASON_LENGTH)],
)
async def test_an_answer_says_why_it_ended(model: str, reason: pb.FinishReason.ValueType, llm: LlmCaller) -> None:
    deltas, error = await llm.stream(ask(model))
    assert error is None
    assert deltas[-1].finish.reason == reason


@pytest.mark.parametrize("model", ERRORS)
async def test_an_error_is_named_and_says_nothing_that_was_said(model: str, llm: LlmCaller) -> None:
    kind, reason = ERRORS[model]
    with pytest.raises(kind) as raised:
        await llm.call("Generate", ask(model))
    assert raised.value.reason == reason
    assert "CANARY" not in repr(raised.value.__dict__)


async def test_a_field_that_the_model_does_not_take_is_named(llm: LlmCaller) -> None:
    with pytest.raises(InvalidRequest) as raised:
        await llm.call("Generate", ask("picky", sampling=pb.Sampling(temperature=0.5)))
    assert raised.value.reason == "PROVIDER_REFUSED"
    assert raised.value.violations == (("sampling.temperature", "the model doesn't take this"),)
    assert "CANARY" not in repr(raised.value.__dict__)
    _, error = await llm.stream(ask("picky"))
    assert error is None


async def test_a_rate_limit_in_the_stream_says_when_to_come_back(llm: LlmCaller) -> None:
    _, error = await llm.stream(ask("error-event:rate_limit_error"))
    assert error
    assert error.retry_after_s == 1


async def test_there_are_no_embeddings(fake: FakeProvider) -> None:
    anthropic = open_provider(provider(fake.base_url, kind="anthropic"))
    with pytest.raises(InvalidRequest):
        await anthropic.embed(EmbedQuestion("ok", ("text",)))
    await anthropic.aclose()
    assert not fake.hits
