"""How the limit of a credential moves, and who goes next beyond it, on a clock of the test's own."""

import asyncio

import pytest

from agentmesh.kit.errors import InvalidRequest, Overloaded, ResourceExhausted, Unavailable
from agentmesh_llm.domain import Priority
from agentmesh_llm.routing.concurrency import CallLimit, LimitBounds

INTERACTIVE, BACKGROUND = Priority.INTERACTIVE, Priority.BACKGROUND


class Clock:
    """Time that stands still until it is moved."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


class Calls:
    """Calls that wait at a limit, by name; `went` are those whose turn came, in order."""

    def __init__(self, limit: CallLimit) -> None:
        self.limit = limit
        self.went: list[str] = []
        self.tasks: dict[str, asyncio.Task[bool]] = {}

    async def wait(self, name: str, tenant: str, priority: Priority = INTERACTIVE, place: object = None) -> None:
        """Let a call stand in line."""

        async def stand() -> bool:
            went = await self.limit.wait(place, tenant, priority)
            if went:
                self.went.append(name)
            return went

        self.tasks[name] = asyncio.create_task(stand())
        await settled()

    async def end_one(self, count: int = 1) -> None:
        """End calls that are in flight."""
        for _ in range(count):
            self.limit.give_back(0.0, None)
            await settled()

    def refused(self, name: str) -> ResourceExhausted | None:
        """Return what a call that found no room was told."""
        task = self.tasks[name]
        error = task.exception() if task.done() and not task.cancelled() else None
        return error if isinstance(error, ResourceExhausted) else None

    async def leave(self) -> None:
        """Take every call that still waits out."""
        for task in self.tasks.values():
            task.cancel()
        await asyncio.gather(*self.tasks.values(), return_exceptions=True)


async def settled() -> None:
    """Let every task do what it can do now."""
    for _ in range(5):
        await asyncio.sleep(0)


def full(most: int = 1, *, waiting: int = 100, clock: Clock | None = None) -> CallLimit:
    """Make a limit that takes no more."""
    limit = CallLimit("unit", LimitBounds(most, 1, waiting), clock or Clock())
    while limit.take():
        pass
    return limit


def test_a_call_that_finds_room_makes_no_future_and_needs_no_loop() -> None:
    limit = CallLimit("unit", LimitBounds(2))
    assert limit.take()
    assert not limit.is_full
    assert limit.take()
    assert not limit.take()
    limit.give_back(0.0, None)
    assert limit.take()


def test_overload_halves_the_limit_once_for_all_calls_of_its_time(clock: Clock) -> None:
    limit = full(16, clock=clock)
    clock.now += 1
    for _ in range(8):
        limit.give_back(clock.now - 1, ResourceExhausted("slow down"))
    assert limit.most == 8
    clock.now += 1
    limit.give_back(clock.now - 0.5, Overloaded("too much"))
    assert limit.most == 4
    for _ in range(4):
        clock.now += 1
        limit.give_back(clock.now - 0.5, Overloaded("too much"))
    assert limit.most == 1


def test_good_calls_let_the_limit_grow_by_one_a_round_and_never_beyond_the_most(clock: Clock) -> None:
    limit = CallLimit("unit", LimitBounds(8), clock)
    for _ in range(4):
        clock.now += 1
        assert limit.take()
        limit.give_back(clock.now, Overloaded("too much"))
    assert limit.most == 1
    reached = []
    for _ in range(60):
        assert limit.take()
        limit.give_back(clock.now, None)
        reached.append(limit.most)
    assert reached[0] == 2  # a round of one call
    assert reached[1:3] == [2, 3] or reached[1:4] == [2, 2, 3]  # of two
    assert reached[-1] == 8


@pytest.mark.parametrize("error", [InvalidRequest("bad"), Unavailable("broken"), GeneratorExit()])
def test_what_is_no_overload_leaves_the_limit(error: BaseException, clock: Clock) -> None:
    limit = CallLimit("unit", LimitBounds(8), clock)
    clock.now += 1
    assert limit.take()
    limit.give_back(clock.now, error)
    assert limit.most == 8


async def test_interactive_calls_go_before_background_ones_and_tenants_by_turns() -> None:
    calls = Calls(full())
    for number in range(3):
        await calls.wait(f"noisy background {number}", "noisy", BACKGROUND)
    for number in range(3):
        await calls.wait(f"noisy {number}", "noisy")
    await calls.wait("quiet background", "quiet", BACKGROUND)
    await calls.wait("quiet", "quiet")
    await calls.end_one(8)
    assert calls.went == [
        "noisy 0",
        "quiet",
        "noisy 1",
        "noisy 2",
        "noisy background 0",
        "quiet background",
        "noisy background 1",
        "noisy background 2",
    ]


async def test_a_full_line_takes_room_from_who_waits_with_most_background_calls_first() -> None:
    calls = Calls(full(waiting=4))
    await calls.wait("a0", "a", BACKGROUND)
    await calls.wait("a1", "a", BACKGROUND)
    await calls.wait("a2", "a", BACKGROUND)
    await calls.wait("b0", "b", BACKGROUND)
    await calls.wait("a3", "a", BACKGROUND)
    error = calls.refused("a3")
    assert error is not None
    assert error.reason == "QUEUE_FULL"
    assert error.retry_after_s
    await calls.wait("c0", "c", BACKGROUND)
    assert calls.refused("a2")
    await calls.wait("b1", "b", BACKGROUND)
    assert calls.refused("b1")  # it would have as many as the loudest
    for number in range(4):
        await calls.wait(f"d{number}", "d")
    assert [name for name in ("a0", "a1", "b0", "c0") if not calls.refused(name)] == []
    await calls.wait("a4", "a", BACKGROUND)
    assert calls.refused("a4")  # it never displaces an interactive call
    await calls.wait("e0", "e")
    assert calls.refused("d3")
    await calls.end_one(4)
    assert calls.went == ["d0", "e0", "d1", "d2"]


async def test_who_leaves_gives_the_turn_to_the_next_even_when_it_had_just_come() -> None:
    limit = full()
    calls = Calls(limit)
    await calls.wait("first", "a")
    await calls.wait("second", "a")
    calls.tasks["first"].cancel()
    await settled()
    limit.give_back(0.0, None)
    calls.tasks["second"].cancel()  # its turn is there, but it has not woken up
    await asyncio.gather(*calls.tasks.values(), return_exceptions=True)
    assert calls.went == []
    assert limit.in_flight == 0
    assert limit.take()


async def test_who_waits_for_a_place_that_is_left_alone_looks_elsewhere_at_once() -> None:
    calls = Calls(full())
    closed, other = object(), object()
    await calls.wait("closed", "a", place=closed)
    await calls.wait("other", "a", place=other)
    calls.limit.turn_away(closed)
    assert await calls.tasks["closed"] is False
    await calls.end_one()
    assert calls.went == ["other"]


async def test_the_wait_for_a_turn_is_estimated_by_who_goes_before(clock: Clock) -> None:
    calls = Calls(full(2, clock=clock))
    assert CallLimit("unit", LimitBounds(2)).wait_s(INTERACTIVE) == 0
    alone = calls.limit.wait_s(INTERACTIVE)
    assert alone > 0
    await calls.wait("a", "a", BACKGROUND)
    assert calls.limit.wait_s(INTERACTIVE) == alone
    assert calls.limit.wait_s(BACKGROUND) == 2 * alone
    await calls.leave()
