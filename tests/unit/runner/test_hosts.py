"""Host processes, the real ones: asked to stop, then killed; gone when the runner may not act any more."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from pathlib import Path

import psutil
import pytest

from agentmesh.api.runner.v1 import runner_service_pb2 as runner_pb
from agentmesh.api.task.v1 import events_pb2 as pb
from agentmesh.kit.errors import from_status
from agentmesh_runner import stopping
from agentmesh_runner.hosts import HostPool
from agentmesh_runner.lease import Lease, lease_time
from agentmesh_runner.running import Running
from tests.unit.runner.attempts import HeldModels

AGENTS = Path(__file__).with_name("outside_agents.py")


@pytest.fixture
async def pool() -> AsyncIterator[HostPool]:
    hosts = HostPool(1, [AGENTS])
    yield hosts
    hosts.close()


class Attempt:
    """An attempt in a host process, whose log the test reads and acknowledges."""

    def __init__(self, pool: HostPool, agent: str, prompt: str = "", lease: Lease | None = None) -> None:
        assignment = runner_pb.Assignment(task_id="t1", attempt=1, tenant="acme")
        assignment.spec.agent, assignment.spec.prompt = agent, prompt
        self._said = asyncio.Event()
        self._events: deque[pb.TaskEvent] = deque()
        self.models = HeldModels()
        self.running = Running(assignment, self.models, None, lambda _: self._said.set(), lease)  # type: ignore[arg-type]
        self.outcome = asyncio.create_task(pool.execute(self.running))
        self.running.task = self.outcome  # type: ignore[assignment]

    async def heard(self) -> pb.TaskEvent:
        """Wait for the next event; it is not acknowledged."""
        while not self._events:
            if (batch := self.running.log.take(1 << 20)) is not None:
                self._events.extend(pb.EventList.FromString(batch.events).events)
            else:
                self._said.clear()
                await self._said.wait()
        return self._events.popleft()

    async def process(self) -> psutil.Process:
        """Return the process, which the agent names first."""
        event = await self.heard()
        return psutil.Process(int(event.message.parts[0].text))

    async def stopped(self, reason: int) -> None:
        """Stop the attempt and wait until it has."""
        self.running.stop(reason)
        with pytest.raises(asyncio.CancelledError):
            await self.outcome


async def test_a_step_waits_in_its_process_until_it_is_durable_and_the_process_is_used_again(pool: HostPool) -> None:
    pids = []
    for _ in range(2):
        attempt = Attempt(pool, "short")
        assert (await attempt.heard()).HasField("step_completed")
        for _ in range(20):
            await asyncio.sleep(0)
        assert not attempt.outcome.done()
        attempt.running.acked(1)
        pids.append((await attempt.outcome).completed.text)
    assert pids[0] == pids[1]


async def test_an_agent_that_stops_when_asked_keeps_its_process(pool: HostPool, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    attempt = Attempt(pool, "polite", str(mark))
    process = await attempt.process()
    await attempt.stopped(stopping.Stop.REASON_CANCELED)
    assert mark.read_text() == "stopped"
    again = Attempt(pool, "polite")
    assert await again.process() == process
    await again.stopped(stopping.HAND_BACK)


@pytest.mark.parametrize("agent", ["deaf", "threaded"])
async def test_an_agent_that_does_not_stop_is_killed(pool: HostPool, agent: str) -> None:
    attempt = Attempt(pool, agent)
    process = await attempt.process()
    await attempt.stopped(stopping.Stop.REASON_CANCELED)
    assert not process.is_running()
    other = Attempt(pool, "polite")
    assert await other.process() != process
    await other.stopped(stopping.HAND_BACK)


async def test_a_model_call_is_stopped_before_a_process_that_takes_its_time_to_stop(pool: HostPool) -> None:
    attempt = Attempt(pool, "deaf", "well?")
    await attempt.process()
    assert (await attempt.heard()).message.parts[0].text == "blocked from now on"
    while not attempt.models.asked:
        await asyncio.sleep(0.005)
    attempt.running.stop(stopping.Stop.REASON_CANCELED)
    for _ in range(5):
        await asyncio.sleep(0)
    assert attempt.models.canceled == ["t1/key:asked"]
    assert not attempt.outcome.done()
    attempt.outcome.cancel()
    await asyncio.gather(attempt.outcome, return_exceptions=True)


async def test_a_process_is_killed_unasked_when_the_lease_is_lost(pool: HostPool, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    attempt = Attempt(pool, "polite", str(mark))
    process = await attempt.process()
    await attempt.stopped(stopping.LEASE_LOST)
    assert not process.is_running()
    assert not mark.exists()


@pytest.mark.parametrize("agent", ["deaf", "polite"])
async def test_a_process_that_hears_of_no_renewal_ends_by_itself(pool: HostPool, agent: str) -> None:
    lease = Lease(until=lease_time() + 60)
    attempt = Attempt(pool, agent, lease=lease)
    process = await attempt.process()
    lease.until = lease_time() + 0.1
    pool.lease_extended()
    # The runner does nothing here: it might as well be frozen.
    assert from_status((await attempt.outcome).failed).reason == "HOST_DIED"
    assert not process.is_running()
    assert lease.over


async def test_a_process_that_hears_of_renewals_lives_on(pool: HostPool) -> None:
    lease = Lease(until=lease_time() + 60)
    attempt = Attempt(pool, "short", lease=lease)
    assert (await attempt.heard()).HasField("step_completed")
    before = lease.until = lease_time() + 0.2
    pool.lease_extended()
    lease.extend(lease_time() + 60)
    pool.lease_extended()
    attempt.running.acked(1)
    assert (await attempt.outcome).HasField("completed")
    assert lease_time() > before


async def test_a_process_without_an_attempt_needs_no_lease(pool: HostPool) -> None:
    lease = Lease(until=lease_time() + 60)
    first = Attempt(pool, "polite", lease=lease)
    process = await first.process()
    await first.stopped(stopping.HAND_BACK)
    lease.until = 0.0
    pool.lease_extended()
    second = Attempt(pool, "polite")
    assert await second.process() == process
    await second.stopped(stopping.HAND_BACK)
