"""Which place is asked next, and for how long one that fails is left alone, on a clock of the test's own."""

import pytest

from agentmesh.kit.errors import InvalidRequest, MeshError, ResourceExhausted, Unavailable
from agentmesh_llm.adapters.offline import OfflineProvider
from agentmesh_llm.routing.concurrency import CallLimit, LimitBounds
from agentmesh_llm.routing.deployments import Attempted, Deployment, Offer, next_of, soonest


class Clock:
    """Time that stands still until it is moved."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def place(clock: Clock, name: str = "one", most: int = 100) -> Deployment:
    limit = CallLimit(name, LimitBounds(most), clock)
    return Deployment(Offer(name, OfflineProvider(), ("m",), (), 60, limit=limit), "m", clock)


def begin(one: Deployment) -> Attempted:
    """Begin a call where there is room for it."""
    assert one.take()
    return one.begin()


def call(one: Deployment, error: BaseException | None = None, *, after_s: float = 0.0) -> None:
    """Make a call that ends at once."""
    attempted = begin(one)
    if error is None:
        one.spoke(after_s)
    one.end(attempted, error)


def down() -> MeshError:
    return Unavailable("down")


def test_the_least_loaded_and_quickest_place_is_next(clock: Clock) -> None:
    one, two = place(clock, "one"), place(clock, "two")
    for _ in range(20):
        call(one, after_s=0.4)
        call(two, after_s=0.1)
    assert next_of([one, two], []) is two
    for _ in range(5):
        begin(two)
    assert next_of([one, two], []) is one  # five on their way at the quicker one
    assert next_of([one, two], [one]) is two
    assert next_of([one, two], [one, two]) is None


def test_a_slow_place_with_room_is_next_before_a_quick_one_where_a_call_would_wait(clock: Clock) -> None:
    one, two = place(clock, "one"), place(clock, "two", most=1)
    for _ in range(20):
        call(one, after_s=4)
        call(two, after_s=0.01)
    begin(two)
    assert next_of([one, two], []) is one
    assert next_of([one, two], [one]) is two


def test_a_429_is_honoured_for_as_long_as_it_said(clock: Clock) -> None:
    one = place(clock)
    call(one, ResourceExhausted("slow down", retry_after_s=20))
    assert not one.is_open
    refusal = one.refusal()
    assert (type(refusal), refusal.retry_after_s) == (ResourceExhausted, 20)
    clock.now += 19.9
    assert not one.is_open
    clock.now += 0.2
    assert one.is_open


def test_five_failures_in_a_row_give_a_rest_that_doubles(clock: Clock) -> None:
    one = place(clock)
    for _ in range(4):
        call(one, down())
    call(one)
    for _ in range(4):
        call(one, down())
        assert one.is_open
    rests = []
    for _ in range(8):
        call(one, down())
        assert not one.is_open
        rests.append(round(one.refusal().retry_after_s or 0))
        clock.now += rests[-1]
        assert one.is_open
    assert rests == [1, 2, 4, 8, 16, 30, 30, 30]
    assert isinstance(one.refusal(), Unavailable)


def test_after_a_rest_one_call_tries_and_the_others_follow_its_success(clock: Clock) -> None:
    one = place(clock)
    for _ in range(5):
        call(one, down())
    clock.now += 1
    trial = begin(one)
    assert not one.is_open
    one.end(trial, None)
    assert one.is_open
    begin(one)
    assert one.is_open


def test_what_began_before_the_rest_neither_ends_the_trial_nor_decides_it(clock: Clock) -> None:
    one = place(clock)
    good, bad = begin(one), begin(one)  # long streams
    for _ in range(5):
        call(one, down())
    clock.now += 1
    trial = begin(one)
    one.end(good, None)
    assert not one.is_open  # the trial is still under way, and nobody else tries
    one.end(bad, down())
    assert not one.is_open
    one.end(trial, down())
    assert not one.is_open
    clock.now += 2
    assert one.is_open  # the rest has doubled once: the stream's failure told of before
    one.end(begin(one), None)
    assert one.is_open


@pytest.mark.parametrize("error", [InvalidRequest("bad"), TimeoutError(), GeneratorExit()])
def test_what_is_not_the_providers_fault_does_not_count_against_it(clock: Clock, error: BaseException) -> None:
    one = place(clock)
    for _ in range(20):
        call(one, error)
    assert one.is_open


def test_when_nobody_can_be_asked_the_soonest_says_when(clock: Clock) -> None:
    one, two = place(clock, "one"), place(clock, "two")
    call(one, ResourceExhausted("slow down", retry_after_s=20))
    for _ in range(5):
        call(two, down())
    refusal = soonest([one, two])
    assert (refusal.reason, refusal.retry_after_s) == ("PROVIDER_DOWN", 1)
