"""A conversation keeps its meaning in Anthropic's form, and what has no form there is refused in clear words."""

import base64
from itertools import pairwise
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentmesh.kit.errors import InvalidRequest
from agentmesh_llm.adapters.anthropic_turns import instructions, turns
from agentmesh_llm.domain import DataPart, MediaPart, Message, Part, Role, TextPart, ToolUse
from tests.support.fake_anthropic import fault_of

HEADERS = {"x-api-key": "k", "anthropic-version": "v"}


def said(role: Role, *parts: Part | str, calls: tuple[ToolUse, ...] = (), answers: str = "") -> Message:
    return Message(role, tuple(TextPart(p) if isinstance(p, str) else p for p in parts), calls, answers)


def blocks_of(*parts: Part) -> list[dict[str, Any]]:
    """Write one message of the user's."""
    (turn,) = turns([said(Role.USER, *parts)])
    return list(turn["content"])


def text(value: str) -> dict[str, Any]:
    return {"type": "text", "text": value}


def test_instructions_are_apart_wherever_they_were_said() -> None:
    messages = [said(Role.SYSTEM, "Be brief."), said(Role.USER, "hi"), said(Role.SYSTEM, "Be kind.", DataPart([1]))]
    assert instructions(messages) == "Be brief.\n\nBe kind.\n\n[1]"
    assert turns(messages) == [{"role": "user", "content": [text("hi")]}]


def test_nothing_but_instructions_is_refused() -> None:
    with pytest.raises(InvalidRequest) as raised:
        turns([said(Role.SYSTEM, "Be brief."), said(Role.USER, "  ")])
    assert raised.value.violations == (("messages", "must hold something besides instructions"),)


def test_turns_of_one_role_become_one() -> None:
    messages = [said(Role.USER, "a"), said(Role.SYSTEM, "s"), said(Role.USER, "b", "c"), said(Role.ASSISTANT, "d")]
    assert turns(messages) == [
        {"role": "user", "content": [text("a"), text("b"), text("c")]},
        {"role": "assistant", "content": [text("d")]},
    ]


def test_a_text_of_nothing_but_space_is_left_out() -> None:
    call = ToolUse("t", "lookup", "{}")
    written = turns([said(Role.USER, "", "a", " \n"), said(Role.ASSISTANT, "", calls=(call,))])
    assert written[0]["content"] == [text("a")]
    assert [block["type"] for block in written[1]["content"]] == ["tool_use"]


def test_tools_are_called_and_answer_before_the_user_goes_on() -> None:
    calls = (ToolUse("t0", "lookup", '{"number": 1}'), ToolUse("t1", "now", ""))
    messages = [
        said(Role.USER, "go"),
        said(Role.ASSISTANT, "Let me look.", calls=calls),
        said(Role.USER, "and hurry"),
        said(Role.TOOL, "found", answers="t0"),
        said(Role.TOOL, answers="t1"),
    ]
    assert turns(messages)[1:] == [
        {
            "role": "assistant",
            "content": [
                text("Let me look."),
                {"type": "tool_use", "id": "t0", "name": "lookup", "input": {"number": 1}},
                {"type": "tool_use", "id": "t1", "name": "now", "input": {}},
            ],
        },
        {
            "role": "user",
            "content": [
                {"type": "tool_result", "tool_use_id": "t0", "content": [text("found")]},
                {"type": "tool_result", "tool_use_id": "t1"},
                text("and hurry"),
            ],
        },
    ]


@pytest.mark.parametrize("arguments", ["{", "[1]", "7", '"CANARY"', "null"])
def test_arguments_that_are_no_object_are_refused_by_their_path(arguments: str) -> None:
    messages = [said(Role.USER, "go"), said(Role.ASSISTANT, calls=(ToolUse("t", "lookup", arguments),))]
    with pytest.raises(InvalidRequest) as raised:
        turns(messages)
    assert raised.value.violations == (("messages[1].tool_calls[0].arguments", "must be a JSON object"),)
    assert "CANARY" not in repr(raised.value.__dict__)


def test_images_and_files_are_written_by_content_and_by_address() -> None:
    written = blocks_of(
        MediaPart("image/PNG; q=1", data=b"\x89PNG"),
        MediaPart("image/jpg", data=b"\xff\xd8"),
        MediaPart("image/png", url="https://example.invalid/a.png"),
        MediaPart("application/pdf", data=b"%PDF", filename="a.pdf"),
        MediaPart("application/pdf", url="https://example.invalid/a.pdf"),
        MediaPart("text/csv", data="é".encode(), filename="a.csv"),
        MediaPart("text/plain", data=b" "),
        DataPart({"a": 1}),
    )
    assert [block["type"] for block in written] == ["image"] * 3 + ["document"] * 3 + ["text"]
    assert [block.get("source") for block in written[:6]] == [
        {"type": "base64", "media_type": "image/png", "data": "iVBORw=="},
        {"type": "base64", "media_type": "image/jpeg", "data": "/9g="},
        {"type": "url", "url": "https://example.invalid/a.png"},
        {"type": "base64", "media_type": "application/pdf", "data": "JVBERg=="},
        {"type": "url", "url": "https://example.invalid/a.pdf"},
        {"type": "text", "media_type": "text/plain", "data": "é"},
    ]
    assert [block.get("title") for block in written] == [None, None, None, "a.pdf", None, "a.csv", None]
    assert written[6] == text('{"a":1}')


def test_an_address_that_holds_its_content_is_unpacked() -> None:
    url = "data:image/gif;name=x;base64," + base64.b64encode(b"GIF8").decode()
    (block,) = blocks_of(MediaPart("image/png", url=url))
    assert block["source"] == {"type": "base64", "media_type": "image/gif", "data": "R0lGOA=="}


@pytest.mark.parametrize(
    ("part", "message"),
    [
        (MediaPart("audio/wav", data=b"RIFF"), "this provider doesn't hear audio"),
        (MediaPart("audio/mpeg", url="https://h/a"), "this provider doesn't hear audio"),
        (MediaPart("image/tiff", data=b"II"), "this provider sees JPEG, PNG, GIF and WebP images only"),
        (MediaPart("video/mp4", data=b"v"), "this provider reads only text, images and PDF files"),
        (MediaPart("text/plain", url="https://h/a"), "this provider reads only images and PDF files from an address"),
        (MediaPart("text/plain", data=b"\xff"), "a text is not UTF-8"),
        (MediaPart("image/png", url="data:image/png,abc"), "a data address must hold base64"),
        (MediaPart("image/png", url="data:image/png;base64,*"), "a data address must hold base64"),
    ],
)
def test_what_has_no_form_is_refused(part: Part, message: str) -> None:
    with pytest.raises(InvalidRequest) as raised:
        blocks_of(part)
    assert (raised.value.message, raised.value.reason) == (message, "UNSUPPORTED_PART")


@pytest.mark.parametrize("role", [Role.SYSTEM, Role.ASSISTANT])
def test_only_text_fits_into_instructions_and_the_assistants_turns(role: Role) -> None:
    file = MediaPart("text/plain", data=b"from a file")
    messages = [said(Role.USER, "hi"), said(role, file)]
    assert "from a file" in instructions(messages) + repr(turns(messages))
    messages.append(said(role, MediaPart("image/png", data=b"\x89PNG")))
    with pytest.raises(InvalidRequest):
        (instructions(messages), turns(messages))


_PARTS = st.lists(
    st.one_of(
        st.text("aé \n", max_size=4).map(TextPart),
        st.integers(0, 9).map(DataPart),
        st.just(MediaPart("image/png", data=b"\x89PNG")),
    ),
    max_size=3,
)


@st.composite
def conversations(draw: st.DrawFn) -> list[Message]:
    """Make conversations as a client may: any order of roles, each call answered once before the next turn."""
    messages = [said(Role.USER, "first")]
    for number in range(draw(st.integers(0, 5))):
        kind = draw(st.sampled_from(("system", "user", "assistant", "tools")))
        texts = [part for part in draw(_PARTS) if not isinstance(part, MediaPart)]
        if kind == "system":
            messages.append(said(Role.SYSTEM, *texts))
        elif kind == "user":
            messages.append(said(Role.USER, *draw(_PARTS)))
        elif kind == "assistant":
            messages.append(said(Role.ASSISTANT, *texts))
        else:
            calls = tuple(ToolUse(f"t{number}_{n}", "f", '{"a": 1}') for n in range(draw(st.integers(1, 3))))
            messages.append(said(Role.ASSISTANT, *texts, calls=calls))
            messages += [said(Role.TOOL, *draw(_PARTS), answers=call.id) for call in draw(st.permutations(calls))]
            messages.append(said(Role.USER, "go on"))
    return messages


@given(conversations())
def test_every_conversation_is_one_that_the_api_takes(messages: list[Message]) -> None:
    written = turns(messages)
    assert fault_of({"max_tokens": 1, "messages": written}, HEADERS) == ""
    roles = [turn["role"] for turn in written]
    assert all(a != b for a, b in pairwise(roles))
    answers = [b["tool_use_id"] for turn in written for b in turn["content"] if b["type"] == "tool_result"]
    assert answers == [message.tool_call_id for message in messages if message.role is Role.TOOL]
    texts = "".join(b["text"] for turn in written for b in turn["content"] if b["type"] == "text")
    spoken = [m for m in messages if m.role in (Role.USER, Role.ASSISTANT)]
    expected = [p.text if isinstance(p, TextPart) else orjson.dumps(p.value).decode()
                for m in spoken for p in m.parts if not isinstance(p, MediaPart)]  # fmt: skip
    assert texts == "".join(part for part in expected if part.strip())
