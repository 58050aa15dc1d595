"""Anthropic's JSON to messages of the contract and back, without a network."""

import json
from typing import Any

import pytest

from agentmesh.api.llm.v1 import llm_service_pb2 as pb
from agentmesh.api.types.v1 import types_pb2
from agentmesh.kit.errors import InvalidRequest, Unavailable
from agentmesh_gateway import anthropic_problems
from agentmesh_gateway.anthropic_events import Events, message_of, usage_of
from agentmesh_gateway.anthropic_messages import MessagesRequest, only_honoured, to_generate
from agentmesh_gateway.json_bodies import validated
from tests.support.llm_gateway import data_of

HELLO = [{"role": "user", "content": "hello"}]


def generate(**fields: Any) -> pb.GenerateRequest:
    tree = {"model": "m", "max_tokens": 5, "messages": HELLO, **fields}
    return to_generate(validated(MessagesRequest, only_honoured(tree)))


def refused(**fields: Any) -> list[str]:
    with pytest.raises(InvalidRequest) as raised:
        generate(**fields)
    return [field for field, _ in raised.value.violations]


def events(*deltas: pb.Delta) -> list[Any]:
    form = Events("m", "req_1")
    written = form.opening() + b"".join(map(form.piece, deltas)) + form.ending()
    return [json.loads(data) for data in data_of(written.decode())]


def call(index: int, *, call_id: str = "", name: str = "", arguments: str = "") -> pb.Delta:
    return pb.Delta(tool_call=pb.ToolCallDelta(index=index, id=call_id, name=name, arguments=arguments))


def test_system_text_and_blocks_come_first() -> None:
    for system in ("be brief", [{"type": "text", "text": "be brief"}]):
        orders, asked = generate(system=system).messages
        assert (orders.role, orders.parts[0].text) == (pb.CHAT_ROLE_SYSTEM, "be brief")
        assert asked.role == pb.CHAT_ROLE_USER
    assert len(generate(system=[]).messages) == 1


def test_results_of_tools_keep_their_place_and_may_be_empty() -> None:
    content = [
        {"type": "text", "text": "first"},
        {"type": "tool_result", "tool_use_id": "a"},
        {"type": "tool_result", "tool_use_id": "b", "content": [{"type": "text", "text": "x"}]},
        {"type": "text", "text": "last"},
    ]
    written = generate(messages=[{"role": "user", "content": content}]).messages
    assert [message.role for message in written] == [
        pb.CHAT_ROLE_USER,
        pb.CHAT_ROLE_TOOL,
        pb.CHAT_ROLE_TOOL,
        pb.CHAT_ROLE_USER,
    ]
    assert [message.parts[0].text for message in written] == ["first", "", "x", "last"]


def test_what_the_model_only_thought_is_no_message() -> None:
    thought = {"role": "assistant", "content": [{"type": "thinking", "thinking": "hm", "signature": "s"}]}
    assert len(generate(messages=[*HELLO, thought]).messages) == 1


@pytest.mark.parametrize(
    ("choice", "mode"),
    [
        ({"type": "auto"}, pb.ToolChoice.MODE_AUTO),
        ({"type": "any"}, pb.ToolChoice.MODE_REQUIRED),
        ({"type": "none"}, pb.ToolChoice.MODE_NONE),
        ({"type": "tool", "name": "f"}, pb.ToolChoice.MODE_NAMED),
    ],
)
def test_every_choice_of_tools_is_understood(choice: Any, mode: Any) -> None:
    tools = [{"type": "custom", "name": "f", "input_schema": {"type": "object"}}]
    assert generate(tools=tools, tool_choice=choice).tool_choice.mode == mode


def test_json_is_asked_for_by_schema() -> None:
    wanted = generate(output_config={"format": {"type": "json_schema", "schema": {"type": "object"}}}).response_format
    assert (wanted.strict, wanted.schema["type"]) == (True, "object")
    assert refused(output_config={"effort": "immense"}) == ["output_config.effort"]


@pytest.mark.parametrize(
    ("block", "path"),
    [
        ({"type": "image", "source": {"type": "file", "file_id": "f"}}, "messages[0].content[0].source.type"),
        ({"type": "image", "source": {"type": "base64", "data": "§"}}, "messages[0].content[0].source"),
        ({"type": "image", "source": {"type": "url", "url": "file:///x"}}, "messages[0].content[0].source"),
        ({"type": "document"}, "messages[0].content[0].source"),
        ({"type": "server_tool_use"}, "messages[0].content[0].type"),
        ({"type": "tool_result"}, "messages[0].content[0].tool_use_id"),
        ({"type": "text"}, "messages[0].content[0].text"),
    ],
)
def test_a_block_that_cannot_be_read_is_named(block: Any, path: str) -> None:
    assert path in refused(messages=[{"role": "user", "content": [block]}])


def test_a_document_of_blocks_is_its_parts() -> None:
    source = {"type": "content", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}
    block = {"type": "document", "source": source, "context": "about"}
    [message] = generate(messages=[{"role": "user", "content": [block]}]).messages
    assert [part.text for part in message.parts] == ["about", "a", "b"]


def test_each_block_ends_before_the_next_begins() -> None:
    seen = events(
        pb.Delta(text="a"),
        pb.Delta(text="b"),
        call(0, call_id="x", name="f", arguments="{"),
        call(0, arguments="}"),
        call(1, name="g"),
        pb.Delta(finish=pb.Finish(reason=pb.FINISH_REASON_TOOL_CALLS)),
    )
    assert [event["type"].removeprefix("content_block_") for event in seen] == [
        "message_start",
        "start",
        "delta",
        "delta",
        "stop",
        "start",
        "delta",
        "delta",
        "stop",
        "start",
        "stop",
        "message_delta",
        "message_stop",
    ]
    assert [event["index"] for event in seen if "index" in event] == [0, 0, 0, 0, 1, 1, 1, 1, 2, 2]
    assert seen[-2]["delta"]["stop_reason"] == "tool_use"
    begun = [event["content_block"] for event in seen if event["type"] == "content_block_start"]
    assert begun[1]["id"] == "x"
    assert begun[2]["id"].startswith("toolu_")


def test_an_empty_answer_is_whole_too() -> None:
    kinds = [event["type"] for event in events(pb.Delta(finish=pb.Finish()))]
    assert kinds == ["message_start", "message_delta", "message_stop"]


def test_a_call_that_goes_on_after_its_end_breaks_the_answer_off() -> None:
    with pytest.raises(Unavailable):
        events(call(0, name="f"), call(1, name="g"), call(0, arguments="{}"))


def test_arguments_that_are_no_object_are_no_answer() -> None:
    for arguments, good in (("", True), ("{}", True), ("[1]", False), ("{", False)):
        use = pb.ToolUse(id="x", name="f", arguments=arguments)
        answer = pb.GenerateResponse(message=pb.ChatMessage(tool_calls=[use]))
        if good:
            assert message_of(answer, "m")["content"][0]["input"] == {}
        else:
            with pytest.raises(Unavailable):
                message_of(answer, "m")


@pytest.mark.parametrize(
    ("reason", "said"),
    [
        (pb.FINISH_REASON_UNSPECIFIED, "end_turn"),
        (pb.FINISH_REASON_STOP, "end_turn"),
        (pb.FINISH_REASON_LENGTH, "max_tokens"),
        (pb.FINISH_REASON_TOOL_CALLS, "tool_use"),
        (pb.FINISH_REASON_CONTENT_FILTER, "refusal"),
    ],
)
def test_why_an_answer_ended_is_told_in_anthropics_words(reason: Any, said: str) -> None:
    assert message_of(pb.GenerateResponse(finish_reason=reason), "m")["stop_reason"] == said
    assert events(pb.Delta(finish=pb.Finish(reason=reason)))[-2]["delta"]["stop_reason"] == said


def test_what_a_cache_served_is_counted_apart() -> None:
    usage = usage_of(types_pb2.Usage(input_tokens=5, cached_input_tokens=3, output_tokens=2))
    assert (usage["input_tokens"], usage["cache_read_input_tokens"], usage["output_tokens"]) == (2, 3, 2)
    assert usage_of(types_pb2.Usage(input_tokens=1, cached_input_tokens=3))["input_tokens"] == 0


def test_a_conversation_that_is_too_long_is_told_in_the_words_that_clients_look_for() -> None:
    body = anthropic_problems.body_of(InvalidRequest("x", reason="CONTEXT_LENGTH"), "req_1")
    assert body["error"]["type"] == "invalid_request_error"
    assert "prompt is too long" in body["error"]["message"]
    assert body["request_id"] == "req_1"


def test_thoughts_that_follow_each_other_are_blocks_of_their_own() -> None:
    deltas = [
        pb.Delta(reasoning="a"),
        pb.Delta(thought=pb.Thought(signature="1")),
        pb.Delta(reasoning="b"),
        pb.Delta(thought=pb.Thought(signature="2")),
        pb.Delta(thought=pb.Thought(redacted="x")),
        pb.Delta(text="said"),
        pb.Delta(reasoning="c"),
        pb.Delta(thought=pb.Thought()),
        pb.Delta(text="more"),
    ]
    told = events(*deltas)
    begun = [(e["index"], e["content_block"]["type"]) for e in told if e["type"] == "content_block_start"]
    kinds = ["thinking", "thinking", "redacted_thinking", "text", "thinking", "text"]
    assert begun == list(enumerate(kinds))
    assert [e["index"] for e in told if e["type"] == "content_block_stop"] == list(range(len(kinds)))
    signed = [
        (e["index"], e["delta"]["signature"]) for e in told if e.get("delta", {}).get("type") == "signature_delta"
    ]
    assert signed == [(0, "1"), (1, "2")]
