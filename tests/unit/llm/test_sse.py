"""The parser finds the same events however the bytes are cut."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentmesh.kit.errors import Unavailable
from agentmesh_llm.adapters.sse import SseParser

BODY = (
    ": a comment\n\n"
    'data: {"text": "é答🙂"}\n\n'
    "event: note\ndata:no space\nid: 7\n\n"
    "data: one\ndata: two\n\n"
    "retry: 10\n\n"
    "data: [DONE]\n\n"
).encode()
EVENTS = ['{"text": "é答🙂"}'.encode(), b"no space", b"one\ntwo", b"[DONE]"]
LINE_ENDS = {"LF": b"\n", "CRLF": b"\r\n", "CR": b"\r"}


def parsed(body: bytes, cuts: list[int]) -> list[bytes]:
    """Feed a body in pieces that end at `cuts`."""
    parser = SseParser(1024)
    ends = [*sorted(cuts), len(body)]
    starts = [0, *ends]
    return [event for a, b in zip(starts, ends, strict=False) for event in parser.feed(body[a:b])]


@pytest.mark.parametrize("line_end", LINE_ENDS)
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"], ids=["plain", "byte order mark"])
def test_a_cut_at_any_byte_changes_nothing(line_end: str, mark: bytes) -> None:
    body = mark + BODY.replace(b"\n", LINE_ENDS[line_end])
    assert all(parsed(body, [at]) == EVENTS for at in range(len(body) + 1))
    assert parsed(body, list(range(len(body)))) == EVENTS


@given(st.lists(st.integers(0, len(BODY)), max_size=8), st.sampled_from(sorted(LINE_ENDS.values())))
def test_cuts_at_any_bytes_change_nothing(cuts: list[int], line_end: bytes) -> None:
    body = BODY.replace(b"\n", line_end)
    assert parsed(body, [min(cut, len(body)) for cut in cuts]) == EVENTS


def test_an_event_without_its_blank_line_is_none() -> None:
    assert parsed(b"data: one\n\ndata: [DONE]\n", []) == [b"one"]


def test_an_event_without_an_end_is_refused_at_the_bound() -> None:
    parser = SseParser(1024)
    parser.feed(b"data: " + b"x" * 1000)
    with pytest.raises(Unavailable):
        parser.feed(b"x" * 100)
