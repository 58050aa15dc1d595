"""Only a whole W3C trace context is taken over; anything else begins a new trace."""

import pytest

from agentmesh.kit.trace_context import received_or_root, traceparent_or_new

GOOD = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def test_a_trace_context_is_taken_over() -> None:
    assert traceparent_or_new(GOOD) == received_or_root(GOOD) == GOOD


@pytest.mark.parametrize(
    "bad",
    [None, "", GOOD[:-1], GOOD + "0", GOOD.upper(), f" {GOOD}", f"{GOOD}\n", f"{GOOD}\r\nX-Other: 1", f"01{GOOD[2:]}"],
)
def test_anything_else_begins_a_new_trace(bad: str | None) -> None:
    for made in (traceparent_or_new(bad), received_or_root(bad)):
        assert made != bad
        assert len(made) == len(GOOD)
        assert made == traceparent_or_new(made)
