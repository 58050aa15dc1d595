"""The events of OpenAI's Responses API become deltas, whatever order they come in, and half an answer is none."""

import contextlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentmesh.kit.errors import InvalidRequest, MeshError, ResourceExhausted, Unavailable
from agentmesh_llm.adapters.responses_errors import event_error, refusal_of
from agentmesh_llm.adapters.responses_items import items
from agentmesh_llm.adapters.responses_wire import ResponseReader, question_body, read_usage
from agentmesh_llm.domain import (
    DataPart,
    Delta,
    Finish,
    FinishReason,
    LogprobsDelta,
    MediaPart,
    Message,
    Question,
    ReasoningDelta,
    ResponseFormat,
    Role,
    TextDelta,
    TextPart,
    Thought,
    TokenLogprob,
    Tool,
    ToolCallDelta,
    ToolMode,
    Usage,
)

QUESTION = Question("m", (Message(Role.USER, (TextPart("hi"),)),))
CALL = {"type": "function_call", "call_id": "c1", "name": "look"}


def read(*events: dict[str, Any], reader: ResponseReader | None = None) -> list[Delta]:
    reader = reader or ResponseReader()
    return [delta for event in events for delta in reader.read(json.dumps(event).encode())]


def event(kind: str, **fields: Any) -> dict[str, Any]:
    return {"type": f"response.{kind}", **fields}


def ended(status: str = "completed", **response: Any) -> dict[str, Any]:
    return event(status, response={"model": "far", **response})


# --- what is asked


def test_the_smallest_question_keeps_nothing_at_the_provider() -> None:
    assert json.loads(question_body(QUESTION)) == {
        "model": "m",
        "input": [{"type": "message", "role": "user", "content": "hi"}],
        "stream": True,
        "store": False,
        "include": ["reasoning.encrypted_content"],
    }


def test_strictness_is_only_said_if_the_caller_said_it() -> None:
    tools = tuple(Tool(name, "", {}, strict) for name, strict in (("a", None), ("b", False), ("c", True)))
    body = json.loads(question_body(Question("m", QUESTION.messages, tools, ToolMode.REQUIRED)))
    assert [tool.get("strict") for tool in body["tools"]] == [None, False, True]
    assert "strict" not in body["tools"][0]
    assert body["tool_choice"] == "required"


def test_json_without_a_schema_is_any_object() -> None:
    body = json.loads(question_body(Question("m", QUESTION.messages, response_format=ResponseFormat())))
    assert body["text"] == {"format": {"type": "json_object"}}


def test_the_assistants_turn_is_thoughts_then_words_then_calls() -> None:
    thoughts = (Thought("a", redacted="x", id="rs_1"), Thought(redacted="y", id="rs_2"), Thought("b", "signed"))
    said = Message(Role.ASSISTANT, (TextPart("so "), DataPart({"a": 1})), thoughts=thoughts)
    assert items([said]) == [
        {
            "type": "reasoning",
            "id": "rs_1",
            "summary": [{"type": "summary_text", "text": "a"}],
            "encrypted_content": "x",
        },
        {"type": "reasoning", "id": "rs_2", "summary": [], "encrypted_content": "y"},
        {"type": "message", "role": "assistant", "content": 'so {"a":1}'},
    ]


@pytest.mark.parametrize(
    ("role", "part"),
    [
        (Role.ASSISTANT, MediaPart("image/png", b"x")),
        (Role.USER, MediaPart("audio/wav", b"x")),
        (Role.USER, MediaPart("text/plain", b"\xff")),
    ],
)
def test_a_part_without_a_form_is_refused(role: Role, part: MediaPart) -> None:
    with pytest.raises(InvalidRequest) as raised:
        items([Message(role, (part,))])
    assert raised.value.reason == "UNSUPPORTED_PART"


# --- what is answered


def test_every_piece_of_an_answer_is_read() -> None:
    reader = ResponseReader()
    likely = [{"token": "So", "logprob": -1, "top_logprobs": [{"token": "Si", "logprob": -2, "bytes": [83, 105]}]}]
    assert read(
        event("created", response={"model": "far"}),
        event("output_item.added", output_index=0, item={"type": "reasoning", "id": "rs_1"}),
        event("reasoning_summary_part.added", output_index=0, summary_index=0),
        event("reasoning_summary_text.delta", output_index=0, delta="a"),
        event("reasoning_summary_part.added", output_index=0, summary_index=1),
        event("reasoning_text.delta", output_index=0, delta="b"),
        event("output_item.done", output_index=0, item={"type": "reasoning", "id": "rs_1", "encrypted_content": "x"}),
        event("output_text.delta", output_index=1, delta="So", logprobs=likely),
        event("refusal.delta", output_index=1, delta=" no"),
        event("output_item.added", output_index=2, item=CALL),
        event("function_call_arguments.delta", output_index=2, delta="{}"),
        event("output_item.done", output_index=2, item={**CALL, "arguments": "{}"}),
        ended(usage={"input_tokens": 3, "output_tokens": 2}),
        reader=reader,
    ) == [
        ReasoningDelta("a"),
        ReasoningDelta("\n\n"),
        ReasoningDelta("b"),
        Thought(redacted="x", id="rs_1"),
        TextDelta("So"),
        LogprobsDelta((TokenLogprob("So", -1.0, b"", (TokenLogprob("Si", -2.0, b"Si"),)),)),
        TextDelta(" no"),
        ToolCallDelta(0, "c1", "look"),
        ToolCallDelta(0, arguments="{}"),
    ]
    assert reader.whole
    assert reader.finish() == [Usage(3, 2), Finish(FinishReason.TOOL_CALLS, "far")]


def test_what_did_not_come_in_pieces_is_taken_from_the_whole_item() -> None:
    message = {
        "type": "message",
        "content": [{"type": "output_text", "text": "So"}, {"type": "refusal", "refusal": "!"}],
    }
    thought = {"type": "reasoning", "content": [{"type": "reasoning_text", "text": "a"}]}
    assert read(
        event("output_item.done", output_index=0, item=thought),
        event("output_item.done", output_index=1, item=message),
        event("output_item.done", output_index=2, item={**CALL, "arguments": "{}"}),
    ) == [
        ReasoningDelta("a"),
        TextDelta("So"),
        TextDelta("!"),
        ToolCallDelta(0, "c1", "look"),
        ToolCallDelta(0, arguments="{}"),
    ]


def test_calls_may_come_mixed() -> None:
    second = {**CALL, "call_id": "c2"}
    assert read(
        event("output_item.added", output_index=4, item=CALL),
        event("output_item.added", output_index=7, item=second),
        event("function_call_arguments.delta", output_index=7, delta="["),
        event("function_call_arguments.delta", output_index=4, delta="{"),
    ) == [
        ToolCallDelta(0, "c1", "look"),
        ToolCallDelta(1, "c2", "look"),
        ToolCallDelta(1, arguments="["),
        ToolCallDelta(0, arguments="{"),
    ]


@pytest.mark.parametrize(
    ("told", "reason"),
    [
        ("max_output_tokens", FinishReason.LENGTH),
        ("content_filter", FinishReason.CONTENT_FILTER),
        ("weather", FinishReason.UNKNOWN),
    ],
)
def test_an_incomplete_answer_says_why(told: str, reason: FinishReason) -> None:
    reader = ResponseReader()
    read(ended("incomplete", incomplete_details={"reason": told}), reader=reader)
    assert reader.finish()[-1] == Finish(reason, "far")


def test_an_end_without_a_reason_is_none_and_neither_is_the_other_apis_marker() -> None:
    reader = ResponseReader()
    read(ended("incomplete", incomplete_details=None), reader=reader)
    with pytest.raises(Unavailable):
        reader.finish()
    reader = ResponseReader()
    assert reader.read(b"[DONE]") == []
    assert not reader.whole


@pytest.mark.parametrize(
    ("error", "kind", "reason"),
    [
        ({"code": "context_length_exceeded"}, InvalidRequest, "CONTEXT_LENGTH"),
        ({"code": "rate_limit_exceeded"}, ResourceExhausted, "PROVIDER_RATE_LIMITED"),
        ({"type": "too_many_requests"}, ResourceExhausted, "PROVIDER_RATE_LIMITED"),
        ({"code": "image_too_large"}, InvalidRequest, "MEDIA_TOO_LARGE"),
        ({"code": "server_error"}, Unavailable, "PROVIDER_FAILED"),
        (None, Unavailable, "PROVIDER_FAILED"),
        ("CANARY", Unavailable, "PROVIDER_FAILED"),
    ],
)
def test_an_error_is_understood_wherever_it_stands(error: Any, kind: type[MeshError], reason: str) -> None:
    assert (type(event_error(error)), event_error(error).reason) == (kind, reason)
    nested: list[dict[str, Any]] = [ended("failed", error=error)]
    if isinstance(error, dict):
        nested += [{**error, "type": "error"}] if "code" in error else []
        nested += [{"type": "error", "error": error}]
    for told in nested:
        with pytest.raises(kind) as raised:
            read(told)
        assert raised.value.reason == reason


@pytest.mark.parametrize(
    ("error", "field"),
    [
        ({"param": "reasoning.effort"}, "reasoning.effort"),
        ({"param": "max_output_tokens"}, "sampling.max_output_tokens"),
        ({"param": "temperature"}, "sampling.temperature"),
        ({"param": "text.format"}, "response_format"),
        ({"param": "text.format.schema", "code": "invalid_json_schema"}, "response_format.schema"),
        ({"param": "tools[1].parameters", "code": "invalid_function_parameters"}, "tools[1].parameters"),
    ],
)
def test_a_field_that_is_refused_is_named_by_the_contract(error: dict[str, str], field: str) -> None:
    assert refusal_of(error).violations[0][0] == field


def test_counts_that_are_none_are_nothing() -> None:
    assert read_usage(None) == Usage()
    told = {"input_tokens": "3", "output_tokens": 2, "input_tokens_details": None, "output_tokens_details": 7}
    assert read_usage(told) == Usage(0, 2)


NAMES = st.sampled_from(
    ["type", "output_index", "item", "delta", "response", "content", "summary", "text", "call_id", "name", "usage"]
)
KINDS = st.sampled_from(
    [
        *("output_text.delta", "function_call_arguments.delta", "reasoning_text.delta", "output_item.added"),
        *("output_item.done", "reasoning_summary_part.added", "created", "completed", "incomplete", "failed"),
    ]
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=4),
    max_leaves=8,
)


@given(KINDS, st.dictionaries(NAMES, JSON, max_size=5))
def test_whatever_an_event_holds_it_is_read_or_refused(kind: str, fields: dict[str, Any]) -> None:
    with contextlib.suppress(MeshError):
        read({**fields, "type": f"response.{kind}"})


@given(st.binary(max_size=64))
def test_whatever_comes_is_read_or_refused(data: bytes) -> None:
    with contextlib.suppress(MeshError):
        ResponseReader().read(data)
