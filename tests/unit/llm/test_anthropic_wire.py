"""Questions become bodies that Anthropic's API takes, its events become deltas, and half an answer is none."""

import contextlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentmesh.kit.errors import (
    InvalidRequest,
    MeshError,
    NotFound,
    Overloaded,
    ResourceExhausted,
    Unavailable,
    WrongState,
)
from agentmesh_llm.adapters.anthropic_errors import refusal_of
from agentmesh_llm.adapters.anthropic_steering import DEFAULT_MAX_TOKENS
from agentmesh_llm.adapters.anthropic_wire import EventReader, question_body
from agentmesh_llm.domain import (
    Delta,
    Finish,
    FinishReason,
    Message,
    Question,
    ReasoningDelta,
    ResponseFormat,
    Role,
    Sampling,
    TextDelta,
    TextPart,
    Thought,
    Tool,
    ToolCallDelta,
    ToolMode,
    Usage,
)

QUESTION = Question("claude", (Message(Role.USER, (TextPart("hi"),)),))
TOOL = Tool("lookup", "Looks up.", {"type": "object", "properties": {"n": {"type": "integer"}}})


def body_of(**fields: Any) -> dict[str, Any]:
    return dict(json.loads(question_body(QUESTION._replace(**fields))))


def read(*events: dict[str, Any], reader: EventReader | None = None) -> list[Delta]:
    reader = reader or EventReader()
    return [delta for event in events for delta in reader.read(json.dumps(event).encode())]


def start(index: int, **block: Any) -> dict[str, Any]:
    return {"type": "content_block_start", "index": index, "content_block": block}


def piece(index: int, **delta: Any) -> dict[str, Any]:
    return {"type": "content_block_delta", "index": index, "delta": delta}


def stop(index: int) -> dict[str, Any]:
    return {"type": "content_block_stop", "index": index}


def ended(reason: str | None = "end_turn", **usage: int | None) -> dict[str, Any]:
    return {"type": "message_delta", "delta": {"stop_reason": reason}, "usage": usage}


# --- what is asked


def test_the_smallest_question_has_the_bound_that_the_api_demands() -> None:
    assert body_of() == {
        "model": "claude",
        "max_tokens": DEFAULT_MAX_TOKENS,
        "messages": [{"role": "user", "content": [{"type": "text", "text": "hi"}]}],
        "stream": True,
    }


def test_sampling_is_written_and_the_seed_is_not() -> None:
    body = body_of(sampling=Sampling(0.0, 0.5, 7, ("END",), seed=3))
    expected = {"max_tokens": 7, "temperature": 0.0, "top_p": 0.5, "stop_sequences": ["END"]}
    assert {key: body[key] for key in expected} == expected
    assert "seed" not in body


def test_a_temperature_over_one_is_refused() -> None:
    with pytest.raises(InvalidRequest) as raised:
        body_of(sampling=Sampling(temperature=1.5))
    assert raised.value.violations == (("sampling.temperature", "must be from 0 to 1 for this provider"),)


@pytest.mark.parametrize(
    ("mode", "choice"),
    [
        (ToolMode.AUTO, {"type": "auto"}),
        (ToolMode.NONE, {"type": "none"}),
        (ToolMode.REQUIRED, {"type": "any"}),
        (ToolMode.NAMED, {"type": "tool", "name": "lookup"}),
    ],
)
def test_tools_are_written_with_how_free_the_model_is(mode: ToolMode, choice: dict[str, str]) -> None:
    body = body_of(tools=(TOOL, Tool("now", "", {})), tool_mode=mode, tool_name="lookup")
    assert body["tool_choice"] == choice
    assert body["tools"] == [
        {"name": "lookup", "description": "Looks up.", "input_schema": TOOL.parameters},
        {"name": "now", "input_schema": {"type": "object"}},
    ]


def test_a_strict_schema_is_the_apis_to_enforce_with_every_object_closed() -> None:
    inner = {"type": "object", "properties": {"default": {"type": "string", "default": {"properties": {"a": 1}}}}}
    schema = {
        "type": "object",
        "properties": {"one": inner, "many": {"type": "array", "items": inner}, "any": {"anyOf": [inner, {}]}},
        "$defs": {"open": {"type": "object", "properties": {"a": {}}, "additionalProperties": True}},
    }
    body = body_of(response_format=ResponseFormat("thing", schema, strict=True))
    written = body["output_config"]["format"]
    closed = {**inner, "additionalProperties": False}
    assert written["type"] == "json_schema"
    assert written["schema"] == {
        "type": "object",
        "properties": {"one": closed, "many": {"type": "array", "items": closed}, "any": {"anyOf": [closed, {}]}},
        "$defs": schema["$defs"],
        "additionalProperties": False,
    }
    assert "system" not in body


@pytest.mark.parametrize("wanted", [ResponseFormat(), ResponseFormat("thing", {"type": "object", "minProperties": 2})])
def test_without_strictness_the_model_is_told_to_write_json(wanted: ResponseFormat) -> None:
    messages = (Message(Role.SYSTEM, (TextPart("Be brief."),)), *QUESTION.messages)
    body = body_of(messages=messages, response_format=wanted)
    assert "output_config" not in body
    assert body["system"].startswith("Be brief.\n\nAnswer with one JSON object and nothing else")
    assert ("minProperties" in body["system"]) == (wanted.schema is not None)


# --- what is answered


def test_text_and_reasoning_come_as_they_are_written() -> None:
    deltas = read(
        start(0, type="thinking", thinking="", signature=""),
        piece(0, type="thinking_delta", thinking="Hm."),
        piece(0, type="signature_delta", signature="c2ln"),
        stop(0),
        start(1, type="redacted_thinking", data="x"),
        stop(1),
        start(2, type="text", text=""),
        {"type": "ping"},
        piece(2, type="text_delta", text="Hello"),
        piece(2, type="text_delta", text=""),
        piece(2, type="citations_delta", citation={}),
        stop(2),
    )
    thoughts = [ReasoningDelta("Hm."), Thought(signature="c2ln"), Thought(redacted="x")]
    assert deltas == [*thoughts, TextDelta("Hello")]


def test_tool_calls_are_numbered_by_themselves() -> None:
    deltas = read(
        start(0, type="text", text=""),
        start(1, type="tool_use", id="t0", name="lookup", input={}),
        piece(1, type="input_json_delta", partial_json=""),
        piece(1, type="input_json_delta", partial_json='{"n":'),
        start(2, type="tool_use", id="t1", name="now", input={}),
        piece(1, type="input_json_delta", partial_json="1}"),
        stop(1),
        stop(2),
        start(3, type="tool_use", id="t2", name="lookup", input={"n": 2}),
        stop(3),
    )
    assert deltas == [
        ToolCallDelta(0, "t0", "lookup"),
        ToolCallDelta(0, arguments='{"n":'),
        ToolCallDelta(1, "t1", "now"),
        ToolCallDelta(0, arguments="1}"),
        ToolCallDelta(1, arguments="{}"),
        ToolCallDelta(2, "t2", "lookup"),
        ToolCallDelta(2, arguments='{"n":2}'),
    ]


@given(st.lists(st.sampled_from('{"n": [1, "é答🙂"]}'), min_size=1), st.data())
def test_pieces_of_arguments_add_up_to_what_was_written(characters: list[str], data: st.DataObject) -> None:
    written = "".join(characters)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(written)), max_size=4)))
    pieces = [written[a:b] for a, b in zip([0, *cuts], [*cuts, len(written)], strict=True)]
    deltas = read(
        start(4, type="tool_use", id="t", name="f", input={}),
        *(piece(4, type="input_json_delta", partial_json=text) for text in pieces),
        stop(4),
    )
    assert "".join(delta.arguments for delta in deltas if isinstance(delta, ToolCallDelta)) == written


def test_what_is_not_known_yet_is_skipped() -> None:
    assert not read(
        {"type": "weather"},
        {},
        start(0, type="server_tool_use", id="s", name="web_search", input={}),
        piece(0, type="input_json_delta", partial_json='{"q": 1}'),
        piece(0, type="weather_delta", sky="blue"),
        stop(0),
    )


def test_usage_sums_what_was_fresh_and_what_came_through_the_cache() -> None:
    reader = EventReader()
    counts = {"input_tokens": 5, "cache_creation_input_tokens": 20, "cache_read_input_tokens": 100}
    message = {"model": "claude-x", "usage": {**counts, "output_tokens": 1}}
    read({"type": "message_start", "message": message}, reader=reader)
    told = ended("end_turn", output_tokens=9, output_tokens_details={"thinking_tokens": 7})
    read(ended(None, output_tokens=4, input_tokens=None), told, reader=reader)
    read({"type": "message_stop"}, reader=reader)
    assert reader.whole
    assert reader.finish() == [Usage(125, 9, 100, 20, 7), Finish(FinishReason.STOP, "claude-x")]


@pytest.mark.parametrize(
    ("reason", "expected"),
    [
        ("end_turn", FinishReason.STOP),
        ("stop_sequence", FinishReason.STOP),
        ("max_tokens", FinishReason.LENGTH),
        ("model_context_window_exceeded", FinishReason.LENGTH),
        ("tool_use", FinishReason.TOOL_CALLS),
        ("refusal", FinishReason.CONTENT_FILTER),
        ("pause_turn", FinishReason.UNKNOWN),
        ("something new", FinishReason.UNKNOWN),
    ],
)
def test_every_reason_has_its_meaning(reason: str, expected: FinishReason) -> None:
    reader = EventReader()
    read(ended(reason), {"type": "message_stop"}, reader=reader)
    assert reader.finish()[-1] == Finish(expected)


def test_without_a_reason_the_marker_ends_nothing() -> None:
    reader = EventReader()
    read(ended(None), {"type": "message_stop"}, reader=reader)
    with pytest.raises(Unavailable) as raised:
        reader.finish()
    assert raised.value.reason == "STREAM_INTERRUPTED"


def test_a_reason_without_the_marker_is_not_the_whole() -> None:
    reader = EventReader()
    read(ended("end_turn"), reader=reader)
    assert not reader.whole


ERRORS = {
    "overloaded_error": (Overloaded, "PROVIDER_FAILED"),
    "api_error": (Unavailable, "PROVIDER_FAILED"),
    "timeout_error": (Unavailable, "PROVIDER_FAILED"),
    "something_new": (Unavailable, "PROVIDER_FAILED"),
    "rate_limit_error": (ResourceExhausted, "PROVIDER_RATE_LIMITED"),
    "invalid_request_error": (InvalidRequest, "PROVIDER_REFUSED"),
    "request_too_large": (InvalidRequest, "REQUEST_TOO_LARGE"),
    "authentication_error": (WrongState, "PROVIDER_CREDENTIAL"),
    "permission_error": (WrongState, "PROVIDER_CREDENTIAL"),
    "billing_error": (WrongState, "PROVIDER_CREDENTIAL"),
    "not_found_error": (NotFound, "MODEL_NOT_FOUND"),
}


@pytest.mark.parametrize("kind", ERRORS)
def test_an_error_in_the_stream_is_named_without_its_words(kind: str) -> None:
    with pytest.raises(MeshError) as raised:
        read({"type": "error", "error": {"type": kind, "message": "CANARY"}})
    assert (type(raised.value), raised.value.reason) == ERRORS[kind]
    assert "CANARY" not in repr(raised.value.__dict__)
    assert (raised.value.retry_after_s is not None) == isinstance(raised.value, Unavailable | ResourceExhausted)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        ({"type": "invalid_request_error", "message": "prompt is too long: 9 tokens > 8 maximum"}, True),
        ({"type": "invalid_request_error", "message": "input length and `max_tokens` exceed context limit: 9"}, True),
        ({"type": "request_too_large"}, False),
        ({"type": "invalid_request_error", "message": "max_tokens: Field required"}, False),
        ("prompt is too long", False),
        (None, False),
    ],
)
def test_a_conversation_that_is_too_long_is_told_by_its_error(error: Any, expected: bool) -> None:
    assert (refusal_of(error).reason == "CONTEXT_LENGTH") == expected


@pytest.mark.parametrize(
    ("message", "field"),
    [
        ("`temperature` is deprecated for this model.", "sampling.temperature"),
        ("top_p: must be 1", "sampling.top_p"),
        ("tool_choice forces tool use, which this model doesn't support", "tool_choice.mode"),
        ("temperatures of the day", ""),
        ("messages.0: the text says temperature", ""),
    ],
)
def test_a_refused_field_is_named_by_our_name_for_it(message: str, field: str) -> None:
    refused = refusal_of({"type": "invalid_request_error", "message": message})
    assert isinstance(refused, InvalidRequest)
    assert [name for name, _ in refused.violations] == ([field] if field else [])


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"[]",
        b"7",
        b'{"type": "message_start"}',
        b'{"type": "content_block_start", "index": 0, "content_block": {"type": "tool_use", "id": 7, "name": "f"}}',
        b'{"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta"}}',
        b'{"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": 7}}',
        b'{"type": "message_delta", "delta": {"stop_reason": 7}}',
    ],
)
def test_what_is_no_event_is_garbage(data: bytes) -> None:
    with pytest.raises(Unavailable) as raised:
        EventReader().read(data)
    assert raised.value.reason == "PROVIDER_GARBAGE"


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.sampled_from(["text", "tool_use", "text_delta", "thinking"]),
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.dictionaries(
            st.sampled_from(["type", "text", "id", "name", "input", "usage", "stop_reason"]), inner, max_size=4
        )
    ),
    max_leaves=8,
)
_KINDS = ["message_start", "content_block_start", "content_block_delta", "content_block_stop", "message_delta", "error"]


@given(
    st.sampled_from(_KINDS),
    st.dictionaries(st.sampled_from(["message", "index", "content_block", "delta", "error"]), _JSON),
)
def test_no_event_breaks_anything_but_itself(kind: str, fields: dict[str, Any]) -> None:
    # Every other exception would be a bug of ours that an odd provider sets off.
    with contextlib.suppress(MeshError):
        read({**fields, "type": kind})
