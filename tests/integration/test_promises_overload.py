"""R9 and R10: overload is refused with a hint and costs nobody his task; a loud tenant does not hurt a quiet one."""

import asyncio
import hashlib
import json
import time
from collections import Counter
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import grpc
import pytest

from agentmesh.api.task.v1 import task_pb2
from agentmesh.api.task.v1 import task_service_pb2 as pb
from agentmesh.client import AsyncClient
from agentmesh.kit import names
from agentmesh.kit.errors import MeshError, from_rpc_error
from agentmesh.kit.rpc_client import bearer
from tests.integration.conftest import Start
from tests.support import agents_for_tests
from tests.support.fleet import Fleet
from tests.support.open_load import OpenLoad
from tests.support.reading import echo
from tests.support.settling import tasks_at

KEYS = {tenant: f"key-of-{tenant}" for tenant in ("quiet", "noisy", "plain", "crowd", "guest")}
NOISY_PER_S, NOISY_BURST = 20, 10
SLOTS = 4  # for sleepers
LIMITS = [
    {"tenant": "noisy", "submits_per_s": NOISY_PER_S, "burst": NOISY_BURST},
    {"tenant": "quiet", "submits_per_s": 200},
]


@pytest.fixture(scope="module")
def fleet(start: Start) -> Fleet:
    """Five tenants, two of them with a rate, and an agent of which few run at once."""
    keys = [{"sha256": hashlib.sha256(key.encode()).hexdigest(), "tenant": tenant} for tenant, key in KEYS.items()]
    settings = {
        "AGENTMESH_SECURITY__AUTHENTICATION": "true",
        "AGENTMESH_SECURITY__AUTHORIZATION": "true",
        "AGENTMESH_SECURITY__RATE_LIMITING": "true",
        "AGENTMESH_SECURITY__API_KEYS": json.dumps(keys),
        "AGENTMESH_LIMITS__TENANTS": json.dumps(LIMITS),
        "AGENTMESH_LIMITS__AGENTS": json.dumps([{"agent": "sleeper", "max_running": SLOTS}]),
        # Far below the default, so that any machine is overloaded by this test's load.
        "AGENTMESH_LIMITS__TARGET_DELAY_S": "0.01",
        # Only admission may refuse here. A mesh that other programs keep off the processor is slow, and at 0.8 s it
        # would say that storage does not answer (R11), which is not about load.
        "AGENTMESH_TASKS__ACCEPT_TIMEOUT_S": "20",
        "AGENTMESH_RUNNER__AGENTS": str(Path(agents_for_tests.__file__)),
    }
    return start(settings=settings)


async def submit(stub: Any, tenant: str) -> MeshError | None:
    """Submit a task; return what it was refused with."""
    try:
        await stub.SubmitTask(pb.SubmitTaskRequest(spec=echo()), metadata=bearer(KEYS[tenant]), timeout=20)
    except grpc.aio.AioRpcError as error:
        return from_rpc_error(error)
    return None


async def test_r9_under_three_times_the_load_some_are_refused_with_a_hint_and_all_that_were_accepted_complete(
    fleet: Fleet,
) -> None:
    async with AsyncClient(fleet.router, token=KEYS["plain"]) as client, client.lane(max_in_flight=64) as lane:
        began = time.monotonic()
        await asyncio.gather(*(lane.run("echo", "warm", parameters={"count": 1}) for _ in range(600)))
        peak = 600 / (time.monotonic() - began)
    async with AsyncExitStack() as stack:
        loads = [
            await stack.enter_async_context(OpenLoad(router, token=KEYS["plain"], streams=4))
            for router in fleet.routers
        ]
        each = max(3 * peak, 3000) / len(loads)
        await asyncio.gather(*(load.offer(each, seconds=3) for load in loads))
        await asyncio.gather(*(load.finish(timeout_s=60) for load in loads))
    for load in loads:
        assert load.unanswered == 0
        assert load.offered == len(load.completed) + len(load.refused)
        assert load.refused
        for refusal in load.refused:
            assert refusal.error.code is grpc.StatusCode.RESOURCE_EXHAUSTED
            assert refusal.error.reason == names.OVERLOADED
            assert refusal.error.retry_after_s is not None
            assert 0 < refusal.error.retry_after_s <= 7.5
    assert sum(len(load.completed) for load in loads) > peak  # more than a second's worth of the three


async def test_r9_after_the_overload_nobody_is_refused(fleet: Fleet) -> None:
    async with AsyncClient(fleet.router, token=KEYS["plain"]) as client:
        # The shipped client waits out what is left of the overload.
        results = [await client.run("echo", "calm", parameters={"count": 1}) for _ in range(20)]
    assert all(result.completed for result in results)


async def test_r10_a_tenant_far_over_its_rate_gets_its_rate_and_another_below_its_own_is_never_refused(
    fleet: Fleet,
) -> None:
    refused: Counter[str] = Counter()
    accepted: Counter[str] = Counter()
    began = time.monotonic()

    async def keep_submitting(stub: Any, tenant: str) -> None:
        # Three seconds, or on a slow machine until the burst is used up; the test's timeout is the bound.
        while time.monotonic() - began < 3 or not refused["noisy"]:
            error = await submit(stub, tenant)
            (accepted if error is None else refused)[tenant] += 1
            await asyncio.sleep(0.02)

    async with AsyncExitStack() as stack:
        stubs = [await stack.enter_async_context(tasks_at(router)) for router in fleet.routers]
        await asyncio.gather(
            *(keep_submitting(stub, "noisy") for stub in stubs for _ in range(5)),
            *(keep_submitting(stub, "quiet") for stub in stubs),
        )
    elapsed = time.monotonic() - began
    assert refused["quiet"] == 0
    assert accepted["quiet"] > 0
    assert refused["noisy"] > 0
    assert accepted["noisy"] <= len(stubs) * (NOISY_BURST + NOISY_PER_S * elapsed + 1)  # no Redis: each counts alone


async def test_r10_the_few_tasks_of_one_tenant_do_not_wait_for_the_many_of_another(fleet: Fleet) -> None:
    many, few = 80, 4
    parameters = {"seconds": 0.1}
    async with (
        AsyncClient(fleet.router, token=KEYS["crowd"]) as crowd,
        AsyncClient(fleet.router, token=KEYS["guest"]) as guest,
    ):
        before = await asyncio.gather(*(crowd.submit("sleeper", parameters=parameters) for _ in range(many)))
        own = [await guest.submit("sleeper", parameters=parameters) for _ in range(few)]
        for client, tasks in ((guest, own), (crowd, before)):
            for task in tasks:
                assert (await client.result(task.id)).completed
        ended = [await crowd.get(task.id) for task in before]
        served = [await guest.get(task.id) for task in own]
    came = min(start_of(task, "create_time") for task in served)
    passed = [start for start in map(start_of, ended) if came < start < max(map(start_of, served))]
    # They take turns; before the first of them, what was claimed already.
    assert len(passed) <= few + 3 * SLOTS, f"{len(passed)} of {many} went first"


def start_of(task: task_pb2.Task, field: str = "start_time") -> int:
    """Return when a task started, or was made, in nanoseconds."""
    return int(getattr(task, field).ToNanoseconds())
