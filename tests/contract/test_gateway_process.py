"""The gateway as a process: it starts with one clear line or not at all, and drains when it is asked to stop."""

import asyncio
import contextlib
import json
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx

from agentmesh.kit.auth import Keyring
from tests.support.serving import serving
from tests.unit.gateway.fake_router import FakeArtifacts, FakeTasks, Log, services_of

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = """
import json, sys
from agentmesh.kit.settings import Settings
from agentmesh_gateway.app import serve
serve(Settings.model_validate(json.loads(sys.argv[1])))
"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def settings_for(router: str, data_dir: Path, **gateway: Any) -> dict[str, Any]:
    endpoint = {"port": free_port(), "metrics_port": free_port(), **gateway}
    return {
        "data_dir": str(data_dir),
        "drain_timeout_s": 5,
        "security": {"authentication": False},
        "services": {"router": {"address": [router]}, "gateway": endpoint},
    }


async def start(settings: dict[str, Any]) -> asyncio.subprocess.Process:
    paths = os.pathsep.join(str(ROOT / folder) for folder in ("libs", "services", "gateway"))
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        SCRIPT,
        json.dumps(settings),
        env={**os.environ, "PYTHONPATH": paths},
        stderr=asyncio.subprocess.PIPE,
    )


@asynccontextmanager
async def gateway(settings: dict[str, Any]) -> AsyncIterator[tuple[asyncio.subprocess.Process, httpx.AsyncClient]]:
    process = await start(settings)
    port = settings["services"]["gateway"]["port"]
    try:
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=10) as client:
            async with asyncio.timeout(20):
                while True:
                    with contextlib.suppress(httpx.ConnectError):
                        if (await client.get("/health/ready")).status_code == 200:
                            break
                    assert process.returncode is None
                    await asyncio.sleep(0.05)
            yield process, client
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def test_sigterm_ends_streams_lets_requests_finish_and_exits_with_0(tmp_path: Path):
    tasks = FakeTasks()
    tasks.logs["t-1"] = Log("t-1")
    keyring = Keyring("s")
    async with serving(with_health(tasks), keyring=keyring) as router:
        settings = settings_for(router, tmp_path)
        async with gateway(settings) as (process, client):
            metrics_port = settings["services"]["gateway"]["metrics_port"]
            metrics = await client.get(f"http://127.0.0.1:{metrics_port}/metrics")
            assert "agentmesh_gateway_requests_total" in metrics.text
            async with client.stream("GET", "/v1/tasks/t-1:watch") as stream:
                lines = stream.aiter_lines()
                while not (await anext(lines)).startswith("data:"):
                    pass
                tasks.delay_s = 1.0
                slow = asyncio.create_task(client.get("/v1/agents"))
                while len(tasks.requests) < 2:
                    await asyncio.sleep(0.01)
                process.send_signal(signal.SIGTERM)
                assert [line async for line in lines if line] == []
                assert (await slow).status_code == 200
            assert await asyncio.wait_for(process.wait(), 5) == 0


async def test_a_gateway_that_is_to_stop_says_so_for_a_while_before_it_takes_nothing_new(tmp_path: Path):
    keyring = Keyring("s")
    async with serving(with_health(FakeTasks()), keyring=keyring) as router:
        settings = {**settings_for(router, tmp_path), "drain_delay_s": 2.0}
        async with gateway(settings) as (process, client):
            process.send_signal(signal.SIGTERM)
            async with asyncio.timeout(10):
                while (await client.get("/health/ready")).status_code != 503:
                    await asyncio.sleep(0.01)
            async with httpx.AsyncClient(base_url=client.base_url) as another:  # whoever has not noticed yet
                assert (await another.get("/v1/agents")).status_code == 200
            assert process.returncode is None
            assert await asyncio.wait_for(process.wait(), 10) == 0


async def test_a_port_in_use_is_one_clear_line(tmp_path: Path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        for key in ("port", "metrics_port"):
            process = await start(settings_for("127.0.0.1:1", tmp_path, **{key: taken.getsockname()[1]}))
            _, stderr = await process.communicate()
            assert process.returncode == 1
            [line] = stderr.decode().splitlines()
            assert line.startswith(f"error: can't listen on 127.0.0.1:{taken.getsockname()[1]}")


async def test_a_gateway_without_authentication_refuses_to_leave_this_machine(tmp_path: Path):
    process = await start(settings_for("127.0.0.1:1", tmp_path, host="0.0.0.0"))
    _, stderr = await process.communicate()
    assert process.returncode == 1
    [line] = stderr.decode().splitlines()
    assert "refusing to listen on 0.0.0.0" in line


def with_health(tasks: FakeTasks) -> list[Any]:
    from grpc_health.v1 import health_pb2

    from agentmesh.kit.auth import OPEN

    class Serving:
        async def check(self, request: Any, call: Any) -> Any:
            return health_pb2.HealthCheckResponse(status=health_pb2.HealthCheckResponse.SERVING)

        async def watch(self, request: Any, call: Any) -> AsyncIterator[Any]:
            yield health_pb2.HealthCheckResponse(status=health_pb2.HealthCheckResponse.SERVING)

        async def list(self, request: Any, call: Any) -> Any:
            return health_pb2.HealthListResponse()

    health = health_pb2.DESCRIPTOR.services_by_name["Health"]
    return [*services_of(tasks, FakeArtifacts()), (health, Serving(), OPEN)]
