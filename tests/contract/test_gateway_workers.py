"""A gateway of several processes: they share a port, one page of metrics, and the way to end."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from prometheus_client.parser import text_string_to_metric_families

from agentmesh.kit import names
from agentmesh.kit.auth import Keyring
from agentmesh.kit.rpc_client import open_channel
from tests.contract.test_gateway_process import with_health
from tests.support.ports import free_ports, give_back
from tests.support.serving import serving
from tests.unit.gateway.fake_router import FakeTasks

pytestmark = pytest.mark.skipif(os.name != "posix", reason="workers share a socket, which needs Linux or macOS")


@dataclass
class Gateway:
    """The parent process, a client of its port, and the router behind it."""

    process: asyncio.subprocess.Process
    client: httpx.AsyncClient
    tasks: FakeTasks
    port: int

    def workers(self) -> set[int]:
        """Return the processes that run now."""
        return {child.pid for child in psutil.Process(self.process.pid).children() if _runs(child)}

    async def counted(self, name: str, **labels: str) -> float:
        """Return a sample of the one page of metrics."""
        page = (await self.client.get(f"http://127.0.0.1:{self.port + 1}/metrics")).text
        families = text_string_to_metric_families(page)
        found = [s.value for f in families for s in f.samples if s.name == name and labels.items() <= s.labels.items()]
        assert len(found) <= 1, (name, found)
        return sum(found)


def _runs(process: psutil.Process) -> bool:
    try:
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def _listens(pid: int) -> bool:
    return any(one.status == psutil.CONN_LISTEN for one in psutil.Process(pid).net_connections("tcp"))


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not holds():
            await asyncio.sleep(0.02)


@asynccontextmanager
async def gateway(folder: Path, **api: int) -> AsyncIterator[Gateway]:
    """Run `agentmesh serve gateway` with these settings of the api; every request has a connection of its own."""
    tasks, port = FakeTasks(), free_ports()
    async with serving(with_health(tasks), keyring=Keyring("s")) as router:
        own = {
            "AGENTMESH_DATA_DIR": str(folder),
            "AGENTMESH_DRAIN_TIMEOUT_S": "5",
            "AGENTMESH_SERVICES__ROUTER__ADDRESS": router,
            "AGENTMESH_SERVICES__GATEWAY__METRICS_PORT": str(port + 1),
            "AGENTMESH_SERVICES__GATEWAY__HEALTH_PORT": str(port + 2),
            **{f"AGENTMESH_API__{key.upper()}": str(value) for key, value in api.items()},
        }
        told = folder / "gateway.log"
        with told.open("wb") as log:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "agentmesh", "serve", "gateway", "--port", str(port)),
                env={**os.environ, **own},
                stderr=log,
            )
        limits = httpx.Limits(max_keepalive_connections=0)
        try:
            async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=30, limits=limits) as client:
                made = Gateway(process, client, tasks, port)
                await until(lambda: process.returncode is not None or b"workers_started" in told.read_bytes())
                assert len(made.workers()) == api.get("workers", 1), told.read_text()
                async with asyncio.timeout(20):
                    while True:
                        try:
                            if (await client.get("/health/ready")).status_code == 200:
                                break
                        except httpx.TransportError:
                            await asyncio.sleep(0.05)
                yield made
        finally:
            family = [psutil.Process(process.pid)] if process.returncode is None else []
            family += [child for parent in family for child in parent.children(recursive=True)]
            for member in family:
                with suppress(psutil.NoSuchProcess):  # a worker may just have retired
                    member.kill()
            await process.wait()
            give_back(port)


async def test_workers_share_a_port_and_are_counted_on_one_page(tmp_path: Path) -> None:
    async with gateway(tmp_path, workers=3) as made:
        before = await made.counted(names.GATEWAY_REQUESTS_TOTAL, route="/health")
        answers = await asyncio.gather(*(made.client.get("/health") for _ in range(60)))
        assert {answer.status_code for answer in answers} == {200}
        for _ in range(3):
            answered = (await made.client.get("/metrics")).text  # by any of them
            assert (
                f'{names.GATEWAY_REQUESTS_TOTAL}{{method="GET",route="/health",status="200"}} {before + 60}' in answered
            )
            assert await made.counted(names.GATEWAY_REQUESTS_TOTAL, route="/health") == before + 60
        assert await made.counted(names.BUILD_INFO) == 1
        assert await made.counted(names.SERVING, role="gateway") == 1
        together = await made.counted("process_resident_memory_bytes")
        assert together > psutil.Process(made.process.pid).memory_info().rss * 2
        async with open_channel(f"127.0.0.1:{made.port + 2}") as channel:
            stub: Any = health_pb2_grpc.HealthStub(channel)
            answer = await stub.Check(health_pb2.HealthCheckRequest(), timeout=10)
        assert answer.status == health_pb2.HealthCheckResponse.SERVING


async def test_a_worker_that_dies_is_replaced_and_what_it_counted_stays(tmp_path: Path) -> None:
    async with gateway(tmp_path, workers=2) as made:
        await asyncio.gather(*(made.client.get("/health") for _ in range(20)))
        counted = await made.counted(names.GATEWAY_REQUESTS_TOTAL, route="/health")
        before = made.workers()
        killed = min(before)
        os.kill(killed, signal.SIGKILL)
        await until(lambda: len(made.workers() - before) == 1 and killed not in made.workers())
        assert len(made.workers()) == 2
        assert await made.counted(names.GATEWAY_REQUESTS_TOTAL, route="/health") == counted
        assert (await made.client.get("/health/ready")).status_code == 200


async def test_a_worker_that_served_enough_is_replaced_and_cuts_nothing(tmp_path: Path) -> None:
    async with gateway(tmp_path, workers=1, max_requests=20, max_requests_jitter=5) as made:
        [first] = made.workers()
        made.tasks.delay_s = 25.0
        slow = asyncio.create_task(made.client.get("/v1/agents"))
        await until(lambda: len(made.tasks.requests) == 1)
        for _ in range(40):
            assert (await made.client.get("/health")).status_code == 200
        await until(lambda: bool(made.workers() - {first}))
        assert not slow.done()
        assert first in made.workers()  # it finishes what it began
        made.tasks.go_on.set()
        assert (await slow).status_code == 200
        await until(lambda: first not in made.workers())


async def test_no_more_workers_retire_at_a_time_than_there_are_to_be(tmp_path: Path) -> None:
    async with gateway(tmp_path, workers=1, max_requests=5) as made:
        [first] = made.workers()
        made.tasks.delay_s = 25.0
        slow = asyncio.create_task(made.client.get("/v1/agents"))
        await until(lambda: len(made.tasks.requests) == 1)
        for _ in range(10):
            await made.client.get("/health")
        await until(lambda: len(made.workers()) == 2)
        [second] = made.workers() - {first}
        await until(lambda: not _listens(first))
        for _ in range(10):  # more than it is to serve, but there is nobody yet to take its place
            assert (await made.client.get("/health")).status_code == 200
        for _ in range(50):  # for longer than it takes to be noticed, twice
            assert made.workers() == {first, second}
            await asyncio.sleep(0.02)
        assert not slow.done()
        made.tasks.go_on.set()
        assert (await slow).status_code == 200
        await until(lambda: not made.workers() & {first, second} and len(made.workers()) == 1)


async def test_sigterm_lets_requests_of_every_worker_end(tmp_path: Path) -> None:
    async with gateway(tmp_path, workers=2) as made:
        workers = made.workers()
        made.tasks.delay_s = 1.0
        slow = [asyncio.create_task(made.client.get("/v1/agents")) for _ in range(8)]
        await until(lambda: len(made.tasks.requests) == 8)
        made.process.send_signal(signal.SIGTERM)
        assert [answer.status_code for answer in await asyncio.gather(*slow)] == [200] * 8
        assert await asyncio.wait_for(made.process.wait(), 10) == 0
        assert not [pid for pid in workers if psutil.pid_exists(pid)]


async def test_workers_end_with_their_parent_however_it_ends(tmp_path: Path) -> None:
    async with gateway(tmp_path, workers=2) as made:
        workers = made.workers()
        made.process.kill()
        await made.process.wait()
        await until(lambda: not [pid for pid in workers if psutil.pid_exists(pid)])
