"""A conversation of texts is read without a look at the rules, and is what it would be with one."""

from collections.abc import Callable, Sequence

import pytest

from agentmesh.api.llm.v1 import llm_service_pb2 as pb
from agentmesh.api.types.v1.types_pb2 import Part
from agentmesh.kit.errors import InvalidRequest
from agentmesh_llm.checks import check_messages
from agentmesh_llm.wire import from_messages, from_request, only_texts

USER, ASSISTANT, TOOL = pb.CHAT_ROLE_USER, pb.CHAT_ROLE_ASSISTANT, pb.CHAT_ROLE_TOOL
TEXTS = [
    pb.ChatMessage(role=pb.CHAT_ROLE_SYSTEM, parts=[Part(text="Be brief.")]),
    pb.ChatMessage(role=USER, parts=[Part(text="What is"), Part(text=""), Part(text=" a river?")]),
    pb.ChatMessage(role=ASSISTANT, parts=[Part(text="Water.")]),
]
OTHERS = {
    "no role": pb.ChatMessage(parts=[Part(text="a")]),
    "a role that nobody knows": pb.ChatMessage(role=99, parts=[Part(text="a")]),  # type: ignore[arg-type]
    "no parts": pb.ChatMessage(role=USER),
    "an empty part": pb.ChatMessage(role=USER, parts=[Part(text="a"), Part()]),
    "an image": pb.ChatMessage(role=USER, parts=[Part(raw=b"a", media_type="image/png")]),
    "no role, but a mark": pb.ChatMessage(parts=[Part(text="a")], tool_call_id="1"),
    "a tool's answer": pb.ChatMessage(role=TOOL, parts=[Part(text="a")], tool_call_id="1"),
    "a tool's answer to nobody": pb.ChatMessage(role=TOOL, parts=[Part(text="a")]),
    "a call": pb.ChatMessage(role=USER, parts=[Part(text="a")], tool_calls=[pb.ToolUse(id="1", name="f")]),
    "a thought": pb.ChatMessage(role=USER, parts=[Part(text="a")], thoughts=[pb.Thought(text="b")]),
    "a breakpoint": pb.ChatMessage(role=USER, parts=[Part(text="a")], cache_breakpoints=[pb.CacheBreakpoint(part=7)]),
}


def _broken_rules(call: Callable[[], object]) -> Sequence[tuple[str, str]]:
    try:
        call()
    except InvalidRequest as refused:
        return refused.violations
    return ()


def test_texts_are_read_as_they_are_with_a_look_at_the_rules() -> None:
    check_messages(TEXTS)

    assert only_texts(TEXTS) == from_messages(TEXTS) == from_request(pb.GenerateRequest(messages=TEXTS)).messages


@pytest.mark.parametrize("other", OTHERS)
def test_anything_else_is_held_against_the_rules(other: str) -> None:
    conversation = [*TEXTS, OTHERS[other]]
    request = pb.GenerateRequest(messages=conversation)
    broken = _broken_rules(lambda: check_messages(conversation))

    assert only_texts(conversation) == ()
    assert _broken_rules(lambda: from_request(request)) == broken
    assert broken or from_request(request).messages == from_messages(conversation)


def test_a_request_without_messages_is_refused() -> None:
    with pytest.raises(InvalidRequest) as raised:
        from_request(pb.GenerateRequest())
    assert raised.value.violations[0][0] == "messages"
