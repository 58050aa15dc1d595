"""Admission against a simulated commit path: so many commits a second, in the order of their turns."""

import heapq
import random
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial

import pytest

from agentmesh.kit.errors import ResourceExhausted
from agentmesh.kit.limit_settings import Limits, TenantLimits
from agentmesh_router.admission import Admission, Entry
from agentmesh_router.congestion import LEAST, MOST
from agentmesh_router.turns import AHEAD

TARGET_S = 0.1


class World:
    """Time, and a path that commits `rate` submits a second; every task that is committed gets a slot at once.

    `takes_s` is what a commit takes when nobody waits; others go on meanwhile."""

    def __init__(
        self,
        rate: float,
        *tenants: TenantLimits,
        queue_limit: int = 10_000,
        slots: bool = True,
        takes_s: float = 0.0,
    ) -> None:
        self.now = 100.0
        self.rate = rate
        self.takes_s = takes_s
        self.slots = slots
        self.starts = slots  # else what is committed waits for ever
        self.broken = False
        self.delays: list[tuple[float, str, float]] = []  # when submitted, by whom, how long it took
        self.refusals: list[tuple[float, str, ResourceExhausted]] = []
        self._free_at = self.now
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._count = 0
        chance = random.Random(7)
        limits = Limits(tenants=tenants, target_delay_s=TARGET_S)
        self.admission = Admission(
            limits,
            lambda: self.now,
            queue_limit=queue_limit,
            free_slots=lambda agent: 1000 * self.slots,
            chance=chance.random,
        )

    def submit(self, tenant: str = "acme") -> ResourceExhausted | None:
        try:
            self.admission.check(tenant, "echo")
        except ResourceExhausted as error:
            self.refusals.append((self.now, tenant, error))
            return error
        self.admission.enter(tenant, partial(self._commit, tenant, self.now))
        return None

    def load(self, tenant: str, rate: float, seconds: float) -> None:
        """Have a tenant submit, so many a second whatever becomes of them, from now on."""
        for number in range(int(rate * seconds)):
            self.at(self.now + number / rate, lambda: self.submit(tenant))

    def at(self, when: float, action: Callable[[], object]) -> None:
        self._count += 1
        heapq.heappush(self._events, (when, self._count, action))  # type: ignore[arg-type]

    def run(self) -> None:
        while self._events:
            self.now, _, action = heapq.heappop(self._events)
            action()

    def delays_of(self, tenant: str, after: float = 0.0) -> list[float]:
        return sorted(delay for when, who, delay in self.delays if who == tenant and when >= 100 + after)

    def refused(self, tenant: str, after: float = 0.0) -> list[ResourceExhausted]:
        return [error for when, who, error in self.refusals if who == tenant and when >= 100 + after]

    def _commit(self, tenant: str, since: float, entry: Entry) -> None:
        entry.asked(waits=not self.slots)
        self._free_at = max(self._free_at, self.now) + 1 / self.rate

        def done() -> None:
            if self.broken:
                entry.failed()
                return
            self.delays.append((since, tenant, self.now - since))
            entry.committed(waits=not self.slots)
            if self.starts and not self.slots:
                self.admission.claimed(tenant)

        self.at(self._free_at + self.takes_s, done)


def p99(values: list[float]) -> float:
    return values[int(len(values) * 0.99)]


def test_nothing_is_refused_at_ninety_percent_of_what_the_mesh_can_do() -> None:
    world = World(1000)
    world.load("acme", 900, 10)
    world.run()
    assert not world.refusals


@pytest.mark.parametrize("overload", [2, 3, 10])
def test_overload_costs_no_goodput_and_keeps_the_delay_of_what_is_accepted_bounded(overload: int) -> None:
    world = World(1000)
    world.load("acme", 1000 * overload, 10)
    world.run()
    late = world.delays_of("acme", after=4)
    assert len(late) >= 0.95 * 6 * 1000
    assert p99(late) <= TARGET_S
    assert {error.reason for error in world.refused("acme")} == {"OVERLOADED"}


def test_a_disk_with_a_long_way_to_it_does_as_much_under_overload() -> None:
    world = World(1000, takes_s=0.04)
    world.load("acme", 3000, 20)
    world.run()
    late = world.delays_of("acme", after=4)
    assert len(late) >= 0.95 * 16 * 1000
    assert p99(late) <= TARGET_S


def test_a_burst_that_drains_is_not_refused() -> None:
    world = World(5000)
    for _ in range(1500):
        world.submit()
    world.run()
    assert not world.refusals


def test_no_more_than_the_bound_is_ever_on_its_way() -> None:
    world = World(100)
    for _ in range(2 * MOST):
        world.submit()
    assert len(world.refusals) == MOST


def test_a_slow_disk_locks_nobody_out() -> None:
    world = World(20)
    world.load("acme", 200, 30)
    world.run()
    assert len(world.delays_of("acme", after=5)) >= 0.9 * 25 * 20
    assert p99(world.delays_of("acme", after=10)) <= 1.1 * LEAST / 20


def test_a_hint_grows_with_the_overload_and_differs_from_one_to_the_next() -> None:
    hints = {}
    for overload in (2, 20):
        world = World(1000)
        world.load("acme", 1000 * overload, 6)
        world.run()
        found = [error.retry_after_s or 0.0 for error in world.refused("acme", after=3)]
        assert len(set(found)) > 1000
        assert all(0 < hint <= 1.5 * 5 for hint in found)
        hints[overload] = sorted(found)[len(found) // 2]
    assert hints[20] > 3 * hints[2]


def test_after_the_overload_everything_is_admitted_again() -> None:
    world = World(1000)
    world.load("acme", 3000, 5)
    world.at(108.5, lambda: world.load("acme", 800, 10))
    world.run()
    assert world.refused("acme")
    assert not world.refused("acme", after=8)


def test_a_tenant_below_its_share_is_never_refused_and_hardly_slower_for_the_load_of_another() -> None:
    world = World(1000)
    world.load("noisy", 10_000, 10)
    world.load("quiet", 10, 10)
    world.run()
    assert not world.refused("quiet")
    assert world.refused("noisy")
    assert max(world.delays_of("quiet")) <= (AHEAD + 4) / 1000
    assert len(world.delays_of("noisy", after=4)) >= 0.9 * 6 * 990


def test_two_tenants_that_overload_the_mesh_share_it_by_weight() -> None:
    world = World(1000, TenantLimits(tenant="heavy", weight=3))
    for tenant in ("heavy", "light"):
        world.load(tenant, 3000, 10)
    world.run()
    heavy, light = (len(world.delays_of(tenant, after=3)) for tenant in ("heavy", "light"))
    assert 2.5 <= heavy / light <= 3.5


def test_a_storage_that_does_not_answer_is_no_overload() -> None:
    world = World(10)
    world.broken = True
    world.load("acme", 100, 20)
    world.run()
    assert not world.refusals  # whoever submits is told the truth: it can't be reached


def test_a_lagging_event_loop_is_overload() -> None:
    world = World(1000)

    def lag() -> Iterator[None]:
        for number in range(200):
            world.at(100 + number * 0.025, lambda: world.admission.lagged(3 * TARGET_S))
            yield

    list(lag())
    world.load("acme", 500, 5)
    world.run()
    assert world.admission.congestion.limit < MOST


def test_a_tenant_has_only_so_many_tasks_waiting_for_a_slot() -> None:
    world = World(1000, TenantLimits(tenant="small", max_waiting=5), queue_limit=20, slots=False)
    world.admission.backlog({})
    admitted = Counter(tenant for tenant in ["small", "acme"] * 100 if world.submit(tenant) is None)
    assert admitted == {"small": 5, "acme": 20}
    world.run()
    error = world.submit("small")
    assert error is not None
    assert (error.reason, error.quota, error.metadata) == ("QUEUE_FULL", "tenant:small", {"limit": "5"})
    assert error.retry_after_s


def test_a_task_that_got_its_slot_makes_room_for_another() -> None:
    world = World(1000, queue_limit=3, slots=False)
    world.admission.backlog({})
    assert [world.submit() is None for _ in range(4)] == [True, True, True, False]
    world.run()
    world.admission.claimed("acme")
    assert [world.submit() is None for _ in range(2)] == [True, False]


def test_storage_knows_better_what_waits() -> None:
    world = World(1000, queue_limit=3, slots=False)
    world.admission.backlog({"acme": 3})
    assert world.submit() is not None
    world.admission.backlog({})
    assert world.submit() is None


def test_without_word_from_storage_nobody_is_refused_for_what_waits() -> None:
    world = World(1000, queue_limit=3, slots=False)
    world.now += 60
    assert all(world.submit() is None for _ in range(10))
    world.run()
    world.admission.backlog({"acme": 30})
    world.now += 60
    assert world.submit() is None


def test_under_overload_a_task_that_would_wait_is_refused_if_tasks_start_fast_for_then_the_mesh_is_slow() -> None:
    world = World(1000, slots=False)
    world.starts = True
    world.load("acme", 3000, 3)
    world.run()
    assert isinstance(world.submit(), ResourceExhausted)  # nothing is on its way
    world.slots = True
    assert world.submit() is None


def test_under_overload_a_task_that_would_wait_is_admitted_if_few_tasks_start_for_then_slots_are_short() -> None:
    world = World(1000, slots=False)
    world.load("acme", 3000, 10)
    world.run()
    assert world.refusals
    assert len(world.delays_of("acme", after=4)) >= 0.9 * 6 * 1000


def test_a_backlog_of_long_tasks_is_no_overload() -> None:
    world = World(1000, slots=False)
    world.admission.backlog({})
    world.load("acme", 800, 10)
    world.run()
    assert not world.refusals
