"""What only the wire of OpenAI's Responses API has: its items and events, its errors, and what it has no form for."""

import json
from collections.abc import AsyncIterator

import pytest
from google.protobuf.struct_pb2 import Struct

from agentmesh.api.llm.v1 import llm_service_pb2 as pb
from agentmesh.api.types.v1 import types_pb2
from agentmesh.kit.errors import InvalidRequest, ResourceExhausted, Unavailable
from tests.support.fake_openai import vector_for
from tests.support.fake_provider import FakeProvider
from tests.support.fake_responses import KEPT, answer_for, usage_for
from tests.support.llm_service import LlmCaller, ask, llm_service, provider, text_of
from tests.support.llm_ways import WAYS

ERRORS = {
    "error-event:context_length_exceeded": (InvalidRequest, "CONTEXT_LENGTH"),
    "error-event:rate_limit_exceeded": (ResourceExhausted, "PROVIDER_RATE_LIMITED"),
    "error-event:invalid_prompt": (InvalidRequest, "CONTENT_FILTER"),
    "failed:server_error": (Unavailable, "PROVIDER_FAILED"),
    "failed:rate_limit_exceeded": (ResourceExhausted, "PROVIDER_RATE_LIMITED"),
    "failed:image_too_large": (InvalidRequest, "MEDIA_TOO_LARGE"),
}
MODELS = ("ok", "tools", "bare", "whole-items", "reasoning", "novel", "long:300", "no-usage", "gpt-4.1")
STOPS = ("stop:max_output_tokens", "stop:content_filter", "stop:else")


@pytest.fixture
async def fake() -> AsyncIterator[FakeProvider]:
    async with FakeProvider() as fake:
        yield fake


@pytest.fixture(params=["responses", "responses-sdk"])
async def llm(request: pytest.FixtureRequest, fake: FakeProvider) -> AsyncIterator[LlmCaller]:
    models = (*MODELS, *STOPS, *ERRORS)
    served = provider(fake.base_url, models, embedding_models=["vectors"], **WAYS[request.param].settings)
    async with llm_service(served) as llm:
        yield llm


def tool() -> pb.Tool:
    """Describe a tool that takes a number."""
    schema = Struct()
    schema.update({"type": "object", "properties": {"number": {"type": "integer"}}})
    return pb.Tool(name="lookup", description="Looks a number up.", parameters=schema, strict=False)


async def test_the_request_is_the_apis(llm: LlmCaller, fake: FakeProvider) -> None:
    schema = Struct()
    schema.update({"type": "object"})
    asked = ask(
        sampling=pb.Sampling(temperature=0.5, top_p=0.25, max_output_tokens=7, seed=3),
        response_format=pb.ResponseFormat(name="thing", schema=schema, strict=True),
        reasoning=pb.Reasoning(effort=pb.Reasoning.EFFORT_LOW, shown=True),
        tools=[tool()],
        parallel_tool_calls=False,
        prompt_cache_key="k",
    )
    asked.messages.insert(0, pb.ChatMessage(role=pb.CHAT_ROLE_SYSTEM, parts=[types_pb2.Part(text="Be brief.")]))
    asked.messages[1].parts.extend(
        [
            types_pb2.Part(raw=b"\x89PNG", media_type="image/png"),
            types_pb2.Part(url="https://example.invalid/a.pdf", media_type="application/pdf"),
            types_pb2.Part(raw=b"%PDF", media_type="application/pdf", filename="a.pdf"),
            types_pb2.Part(raw="é".encode(), media_type="text/plain"),
        ]
    )
    await llm.call("Generate", asked)
    hit = fake.hits[0]
    assert hit.path == "/v1/responses"
    assert hit.body == {
        "model": "ok",
        "input": [
            {"type": "message", "role": "system", "content": "Be brief."},
            {
                "type": "message",
                "role": "user",
                "content": [
                    {"type": "input_text", "text": asked.messages[1].parts[0].text},
                    {"type": "input_image", "image_url": "data:image/png;base64,iVBORw==", "detail": "auto"},
                    {"type": "input_file", "file_url": "https://example.invalid/a.pdf"},
                    {
                        "type": "input_file",
                        "filename": "a.pdf",
                        "file_data": "data:application/pdf;base64,JVBERg==",
                    },
                    {"type": "input_text", "text": "é"},
                ],
            },
        ],
        "tools": [
            {
                "type": "function",
                "name": "lookup",
                "description": "Looks a number up.",
                "parameters": {"type": "object", "properties": {"number": {"type": "integer"}}},
                "strict": False,
            }
        ],
        "tool_choice": "auto",
        "parallel_tool_calls": False,
        "text": {"format": {"type": "json_schema", "name": "thing", "schema": {"type": "object"}, "strict": True}},
        "reasoning": {"effort": "low", "summary": "auto"},
        "temperature": 0.5,
        "top_p": 0.25,
        "max_output_tokens": 7,
        "prompt_cache_key": "k",
        "stream": True,
        "store": False,
        "include": ["reasoning.encrypted_content"],
    }


async def test_a_family_that_never_thinks_is_not_asked_for_its_thoughts(llm: LlmCaller, fake: FakeProvider) -> None:
    await llm.call("Generate", ask("gpt-4.1"))
    assert fake.hits[0].body["include"] == []


@pytest.mark.parametrize("model", ["tools", "whole-items"])
async def test_tools_make_the_round_trip(model: str, llm: LlmCaller, fake: FakeProvider) -> None:
    asked = ask(model, tools=[tool()], tool_choice=pb.ToolChoice(mode=pb.ToolChoice.MODE_NAMED, name="lookup"))
    response = await llm.call("Generate", asked)
    assert response.finish_reason == pb.FINISH_REASON_TOOL_CALLS
    assert [(c.id, c.name, json.loads(c.arguments)) for c in response.message.tool_calls] == [
        ("call_0", "lookup", {"number": 0}),
        ("call_1", "lookup", {"number": 1}),
    ]
    assert fake.hits[0].body["tool_choice"] == {"type": "function", "name": "lookup"}
    asked.messages.append(response.message)
    for use in response.message.tool_calls:
        parts = [types_pb2.Part(text="found")]
        asked.messages.append(pb.ChatMessage(role=pb.CHAT_ROLE_TOOL, parts=parts, tool_call_id=use.id))
    answer = await llm.call("Generate", asked)
    assert answer.finish_reason == pb.FINISH_REASON_STOP
    kinds = [item["type"] for item in fake.hits[1].body["input"]]
    assert kinds == ["message", "function_call", "function_call", "function_call_output", "function_call_output"]
    assert fake.hits[1].body["input"][-1] == {"type": "function_call_output", "call_id": "call_1", "output": "found"}


async def test_a_call_without_arguments_is_a_call(llm: LlmCaller) -> None:
    response = await llm.call("Generate", ask("bare", tools=[tool()]))
    assert [(call.name, call.arguments) for call in response.message.tool_calls] == [("lookup", "")] * 2


async def test_what_was_thought_is_told_and_shown_to_the_provider_again(llm: LlmCaller, fake: FakeProvider) -> None:
    asked = ask("reasoning")
    response = await llm.call("Generate", asked)
    assert response.reasoning == "Hm, so be it."
    assert "Hm" not in response.message.parts[0].text
    assert list(response.message.thoughts) == [pb.Thought(text="Hm, so be it.", redacted=KEPT, id="rs_1")]
    # What another provider thought is none of this one's business.
    response.message.thoughts.add(text="foreign", signature="s")
    response.message.thoughts.add(redacted="foreign")
    asked.messages.append(response.message)
    asked.messages.append(asked.messages[0])
    _, error = await llm.stream(asked)
    assert error is None
    assert fake.hits[1].body["input"][1:3] == [
        {
            "type": "reasoning",
            "id": "rs_1",
            "summary": [{"type": "summary_text", "text": "Hm, so be it."}],
            "encrypted_content": KEPT,
        },
        {"type": "message", "role": "assistant", "content": response.message.parts[0].text},
    ]


async def test_how_likely_each_token_was_is_told(llm: LlmCaller, fake: FakeProvider) -> None:
    response = await llm.call("Generate", ask(top_logprobs=2))
    assert "".join(token.token for token in response.logprobs) == response.message.parts[0].text
    first = response.logprobs[0]
    assert (first.logprob, first.utf8, [other.token for other in first.alternatives]) == (
        -0.5,
        first.token.encode(),
        ["0", "1"],
    )
    assert fake.hits[0].body["include"][-1] == "message.output_text.logprobs"
    assert fake.hits[0].body["top_logprobs"] == 2


async def test_usage_is_the_providers_own_count(llm: LlmCaller, fake: FakeProvider) -> None:
    usage = (await llm.call("Generate", ask())).usage
    counts = usage_for(fake.hits[0].body)
    assert (usage.input_tokens, usage.output_tokens) == (counts["input_tokens"], counts["output_tokens"])
    assert usage.cached_input_tokens == counts["input_tokens_details"]["cached_tokens"] > 0
    assert (usage.cache_write_tokens, usage.reasoning_tokens) == (1, 2)


async def test_an_answer_without_usage_is_whole(llm: LlmCaller) -> None:
    deltas, error = await llm.stream(ask("no-usage"))
    assert error is None
    assert deltas[-1].finish.reason == pb.FINISH_REASON_STOP


@pytest.mark.parametrize("model", ["novel", "whole-items"])
async def test_what_nobody_knows_and_what_comes_whole_is_no_trouble(
    model: str, llm: LlmCaller, fake: FakeProvider
) -> None:
    deltas, error = await llm.stream(ask(model))
    assert error is None
    assert text_of(deltas) == " " + answer_for(fake.hits[0].body)
    assert not any(delta.HasField("tool_call") for delta in deltas)


async def test_a_long_answer_is_whole(llm: LlmCaller) -> None:
    response = await llm.call("Generate", ask("long:300"))
    assert response.message.parts[0].text == "".join(f"{number} " for number in range(300))


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        ("stop:max_output_tokens", pb.FINISH_REASON_LENGTH),
        ("stop:content_filter", pb.FINISH_REASON_CONTENT_FILTER),
        ("stop:else", pb.FINISH_REASON_UNSPECIFIED),
    ],
)
async def test_an_answer_says_why_it_ended(model: str, reason: "pb.FinishReason.ValueType", llm: LlmCaller) -> None:
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


@pytest.mark.parametrize(
    ("sampling", "field"),
    [
        (pb.Sampling(stop=["END"]), "sampling.stop"),
        (pb.Sampling(frequency_penalty=1), "sampling.frequency_penalty"),
        (pb.Sampling(presence_penalty=1), "sampling.presence_penalty"),
        (pb.Sampling(top_k=3), "sampling.top_k"),
    ],
)
async def test_what_has_no_form_here_is_refused_by_its_name(
    sampling: pb.Sampling, field: str, llm: LlmCaller, fake: FakeProvider
) -> None:
    with pytest.raises(InvalidRequest) as raised:
        await llm.call("Generate", ask(sampling=sampling))
    assert raised.value.violations[0][0] == field
    assert not fake.hits


async def test_audio_is_refused(llm: LlmCaller, fake: FakeProvider) -> None:
    asked = ask()
    asked.messages[0].parts.add(raw=b"RIFF", media_type="audio/wav")
    with pytest.raises(InvalidRequest) as raised:
        await llm.call("Generate", asked)
    assert raised.value.reason == "UNSUPPORTED_PART"
    assert not fake.hits


async def test_vectors_are_made_as_ever(llm: LlmCaller) -> None:
    response = await llm.call("Embed", pb.EmbedRequest(model="vectors", inputs=["a"]))
    assert list(response.embeddings[0].values) == vector_for("a", 8)
