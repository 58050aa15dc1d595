"""Counts per minute slide, and what others counted is counted, too."""

from hypothesis import given
from hypothesis import strategies as st

from agentmesh_llm.books.windows import Windows

NAME = ("requests", "acme", "")


class Clock:
    """A clock that a test moves."""

    def __init__(self, now: float = 6000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


def test_a_limit_is_reached_and_the_hint_says_when_there_is_room_again() -> None:
    clock = Clock()
    windows = Windows(clock)
    for _ in range(10):
        assert windows.wait_s(NAME, 1, 10) == 0
        windows.add(NAME, 1)
    wait_s = windows.wait_s(NAME, 1, 10)
    assert 60 < wait_s <= 66.1
    clock.now += wait_s
    assert windows.wait_s(NAME, 1, 10) == 0


@given(st.lists(st.tuples(st.floats(0, 40), st.integers(1, 5)), max_size=60))
def test_no_more_than_twice_the_limit_passes_within_any_minute(arrivals: list[tuple[float, int]]) -> None:
    clock = Clock()
    windows = Windows(clock)
    passed: list[tuple[float, int]] = []
    for gap_s, count in arrivals:
        clock.now += gap_s
        if windows.wait_s(NAME, count, 10) == 0:
            windows.add(NAME, count)
            passed.append((clock.now, count))
    for start, _ in passed:
        assert sum(count for at, count in passed if start <= at < start + 60) <= 20
    by_minute: dict[int, int] = {}
    for at, count in passed:
        by_minute[int(at // 60)] = by_minute.get(int(at // 60), 0) + count
    assert all(count <= 10 for count in by_minute.values())


@given(st.lists(st.tuples(st.floats(0, 40), st.integers(1, 5)), max_size=60))
def test_who_waits_as_long_as_the_hint_says_gets_through(arrivals: list[tuple[float, int]]) -> None:
    clock = Clock()
    windows = Windows(clock)
    for gap_s, count in arrivals:
        clock.now += gap_s
        wait_s = windows.wait_s(NAME, count, 10)
        clock.now += wait_s + 0.001
        assert windows.wait_s(NAME, count, 10) == 0
        windows.add(NAME, count)


def test_what_is_taken_back_makes_room() -> None:
    windows = Windows(Clock())
    windows.add(NAME, 10)
    assert windows.wait_s(NAME, 4, 10) > 0
    windows.add(NAME, -5)
    assert windows.wait_s(NAME, 4, 10) == 0


def test_what_others_counted_counts_and_what_was_told_is_not_told_twice() -> None:
    clock = Clock()
    here, there = Windows(clock), Windows(clock)
    here.add(NAME, 6)
    there.add(NAME, 3)
    told = {**here.untold()}
    assert told == {(NAME, 100): 6}
    assert here.untold() == {}
    assert there.untold() == {(NAME, 100): 3}
    there.hear(NAME, 100, 9)
    assert there.wait_s(NAME, 1, 10) == 0
    assert there.wait_s(NAME, 2, 10) > 0


def test_processes_that_can_not_hear_of_each_other_share_the_limit() -> None:
    windows = Windows(Clock())
    windows.shared_by = 5
    windows.add(NAME, 2)
    assert windows.wait_s(NAME, 1, 10) > 0
    windows.shared_by = 1
    assert windows.wait_s(NAME, 1, 10) == 0
