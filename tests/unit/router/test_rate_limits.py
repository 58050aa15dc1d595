import asyncio
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentmesh.kit.errors import ResourceExhausted, Unavailable
from agentmesh.kit.limit_settings import Limits, TenantLimits
from agentmesh_router.adapters.memory_buckets import MemoryBuckets
from agentmesh_router.rate_limits import RateLimits
from agentmesh_router.token_bucket import Grant, Rate


class Far:
    """Buckets that other routers use too: real ones, behind a network that can be gone, and counts its calls."""

    def __init__(self, buckets: MemoryBuckets, routers: int = 1) -> None:
        self.buckets = buckets
        self.calls = 0
        self.gone = False
        self.known_routers = routers

    async def take(self, tenant: str, rate: Rate, wanted: int) -> Grant:
        self.calls += 1
        await asyncio.sleep(0)
        if self.gone:
            raise Unavailable("gone")
        return await self.buckets.take(tenant, rate, wanted)

    async def routers(self) -> int:
        if self.gone:
            raise Unavailable("gone")
        return self.known_routers

    async def aclose(self) -> None: ...


class Setup:
    """Routers with a clock in hand."""

    def __init__(self, per_s: float, burst: int = 0, *, routers: int = 1, shared: bool = True, seed: int = 3) -> None:
        self.now = 50.0
        limits = Limits(tenants=(TenantLimits(tenant="acme", submits_per_s=per_s, burst=burst),))
        self.far = Far(MemoryBuckets(lambda: self.now), routers)
        chance = random.Random(seed)
        self.routers = [
            RateLimits(
                limits,
                lambda: self.now,
                local=MemoryBuckets(lambda: self.now),
                shared=self.far if shared else None,
                chance=chance.random,
            )
            for _ in range(routers)
        ]

    async def takes(self, count: int, router: int = 0, tenant: str = "acme") -> list[ResourceExhausted | None]:
        """Submit all at once; return the refusals, None for what was let through."""

        async def one() -> ResourceExhausted | None:
            try:
                gate = self.routers[router].take(tenant)
                if gate is not None:
                    await gate
            except ResourceExhausted as error:
                return error
            return None

        return list(await asyncio.gather(*(one() for _ in range(count))))


@pytest.mark.parametrize("shared", [True, False])
async def test_the_burst_goes_through_and_the_rest_is_told_when_to_come_back(shared: bool) -> None:
    setup = Setup(10, 4, shared=shared)
    answers = await setup.takes(7)
    assert [answer is None for answer in answers] == [True] * 4 + [False] * 3
    error = answers[-1]
    assert error is not None
    assert (error.reason, error.quota, error.metadata) == ("RATE_LIMITED", "tenant:acme", {"submits_per_s": "10"})
    assert error.retry_after_s is not None
    assert 0.09 <= error.retry_after_s <= 0.21
    setup.now += 0.1
    assert [answer is None for answer in await setup.takes(2)] == [True, False]


async def test_a_tenant_without_a_rate_is_never_asked_for_tokens() -> None:
    setup = Setup(1, 1)
    assert await setup.takes(500, tenant="free") == [None] * 500
    assert setup.far.calls == 0


async def test_a_burst_of_0_is_a_second_s_worth_and_at_least_1() -> None:
    assert (await Setup(20).takes(30)).count(None) == 20
    assert (await Setup(0.5).takes(3)).count(None) == 1


async def test_most_submits_of_a_fast_tenant_cost_no_call() -> None:
    setup = Setup(1000)
    for _ in range(1000):
        setup.now += 0.001
        assert await setup.takes(1) == [None]
    assert setup.far.calls <= 25


async def test_what_is_refused_costs_no_call_until_there_is_a_token_again() -> None:
    setup = Setup(1, 1)
    await setup.takes(2)
    calls = setup.far.calls
    assert (await setup.takes(100)).count(None) == 0
    assert setup.far.calls == calls


async def test_routers_share_what_a_tenant_may_have() -> None:
    setup = Setup(10, 6, routers=3)
    through = sum([(await setup.takes(6, router)).count(None) for router in range(3)])
    assert through == 6


async def test_without_the_shared_buckets_each_router_grants_its_share_and_fails_nobody() -> None:
    setup = Setup(20, 20, routers=2)
    watching = [asyncio.create_task(router.keep_in_touch()) for router in setup.routers]
    await asyncio.sleep(0)
    setup.far.gone = True
    through = [(await setup.takes(30, router)).count(None) for router in range(2)]
    assert through == [10, 10]
    calls = setup.far.calls
    await setup.takes(5)
    assert setup.far.calls == calls  # it isn't tried again at once
    for task in watching:
        task.cancel()


async def test_the_shared_buckets_are_tried_again_after_a_while() -> None:
    setup = Setup(20)
    setup.far.gone = True
    await setup.takes(1)
    setup.far.gone = False
    setup.now += 30
    calls = setup.far.calls
    await setup.takes(1)
    assert setup.far.calls == calls + 1


async def test_many_tenants_that_find_redis_gone_at_once_are_one_failure() -> None:
    limits = Limits(default=TenantLimits(tenant="default", submits_per_s=10))
    setup = Setup(1)
    rates = RateLimits(limits, lambda: setup.now, local=MemoryBuckets(lambda: setup.now), shared=setup.far)
    setup.far.gone = True
    gates = [rates.take(f"tenant-{number}") for number in range(50)]
    await asyncio.gather(*(gate for gate in gates if gate is not None))
    setup.far.gone = False
    setup.now += 0.6  # one back-off, not fifty
    calls = setup.far.calls
    gate = rates.take("another")
    assert gate is not None
    await gate
    assert setup.far.calls == calls + 1


async def test_a_submit_that_is_given_up_while_its_token_is_fetched_harms_nobody() -> None:
    setup = Setup(10, 2)
    gate = setup.routers[0].take("acme")
    assert gate is not None
    gate.cancel()
    assert (await setup.takes(3)).count(None) == 2


steps = st.lists(st.tuples(st.floats(0, 0.4), st.integers(0, 2), st.integers(1, 9)), max_size=40)


@settings(deadline=None)
@given(st.floats(0.5, 500), st.integers(1, 50), steps)
def test_no_more_than_rate_and_burst_go_through_over_all_routers(
    per_s: float, burst: int, submits: list[tuple[float, int, int]]
) -> None:
    async def run() -> None:
        setup = Setup(per_s, burst, routers=3)
        through, start = 0, setup.now
        for pause_s, router, count in submits:
            setup.now += pause_s
            through += (await setup.takes(count, router)).count(None)
            assert through <= burst + per_s * (setup.now - start) + 1e-6

    asyncio.run(run())
