import random
from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from agentmesh_router.turns import Turns


class Commits:
    """What was started, and what of it is under way."""

    def __init__(self, ahead: int) -> None:
        self.turns = Turns(ahead)
        self.started: list[str] = []
        self.under_way = 0

    def submit(self, tenant: str, weight: int = 1) -> None:
        self.turns.enter(tenant, weight, lambda: self._start(tenant))

    def finish(self, count: int = 1) -> None:
        for _ in range(count):
            self.under_way -= 1
            self.turns.leave()

    def _start(self, tenant: str) -> None:
        self.started.append(tenant)
        self.under_way += 1


def test_one_tenant_keeps_its_order_and_never_more_is_under_way_than_may_be() -> None:
    turns, order = Turns(2), list[int]()
    for number in range(5):
        turns.enter("a", 1, lambda number=number: order.append(number))  # type: ignore[misc]
    assert order == [0, 1]
    turns.leave()
    assert order == [0, 1, 2]
    turns.leave()
    turns.leave()
    assert order == [0, 1, 2, 3, 4]


def test_a_newcomer_goes_next_however_many_of_another_tenant_wait() -> None:
    commits = Commits(4)
    for _ in range(1000):
        commits.submit("noisy")
    commits.submit("quiet")
    commits.finish(2)
    assert "quiet" in commits.started[4:6]


def test_turns_go_by_weight() -> None:
    commits = Commits(1)
    for _ in range(400):
        commits.submit("light", 1)
        commits.submit("heavy", 3)
    commits.finish(200)
    shares = Counter(commits.started[-200:])
    assert shares["heavy"] in range(148, 153)


def test_a_start_that_fails_at_once_makes_room_for_the_next_without_deep_recursion() -> None:
    turns, started = Turns(1), list[int]()
    turns.enter("a", 1, lambda: None)
    for number in range(5000):

        def start(number: int = number) -> None:
            started.append(number)
            turns.leave()

        turns.enter("a", 1, start)
    turns.leave()
    assert started == list(range(5000))


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(1, 5)), max_size=60), st.integers(1, 5), st.integers())
def test_everything_is_started_once_whatever_the_order(submits: list[tuple[str, int]], ahead: int, seed: int) -> None:
    commits, chance, left = Commits(ahead), random.Random(seed), list(submits)
    while left or commits.under_way:
        if left and (not commits.under_way or chance.random() < 0.5):
            tenant, weight = left.pop()
            commits.submit(tenant, weight)
        else:
            commits.finish()
        assert commits.under_way <= ahead
    assert Counter(commits.started) == Counter(tenant for tenant, _ in submits)
