import asyncio
from typing import Any

import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from agentmesh.kit.auth import Authenticator, Keyring
from agentmesh.kit.health import Health
from agentmesh.kit.rpc_client import open_channel
from agentmesh.kit.rpc_server import build_server, listen

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


class Dependency:
    def __init__(self) -> None:
        self.answer: bool | Exception = True
        self.stuck = False

    async def __call__(self) -> bool:
        if self.stuck:
            await asyncio.Event().wait()
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


async def test_a_process_serves_only_while_every_dependency_is_there() -> None:
    database, other = Dependency(), Dependency()
    health = Health(["a.B"], {"database": database, "other": other}, interval_s=0.01)
    server = build_server(Authenticator(Keyring("s"), anonymous=False), [])
    await health.add_to(server)
    address = f"127.0.0.1:{listen(server, '127.0.0.1:0')}"
    await server.start()
    async with open_channel(address) as channel:
        stub: Any = health_pb2_grpc.HealthStub(channel)

        async def status(service: str = "") -> int:
            answer = await stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=10)
            return int(answer.status)

        assert [await status(), await status("a.B")] == [NOT_SERVING, NOT_SERVING]  # nobody was asked yet
        for answer in (False, RuntimeError("gone")):
            database.answer = answer
            await health.refresh()
            assert [await status(), await status("a.B")] == [NOT_SERVING, NOT_SERVING]
            database.answer = True
            await health.refresh()
            assert [await status(), await status("a.B")] == [SERVING, SERVING]
        other.stuck = True
        await health.refresh()
        assert await status() == NOT_SERVING
        other.stuck = False
        await health.refresh()
        assert health.serving
        assert await status("live") == SERVING
        listed = (await stub.List(health_pb2.HealthListRequest(), timeout=10)).statuses
        assert {name: answer.status for name, answer in listed.items()} == dict.fromkeys(
            ("", "a.B", "live", "dependency.database", "dependency.other"), SERVING
        )
        await health.drain()
        await health.refresh()
        assert [await status(), await status("live")] == [NOT_SERVING, SERVING]
    await server.stop(0)


async def test_a_port_in_use_is_said_in_words() -> None:
    servers = [build_server(Authenticator(Keyring("s"), anonymous=True), []) for _ in range(2)]
    port = listen(servers[0], "127.0.0.1:0")
    with pytest.raises(Exception, match="is the port in use") as refused:
        listen(servers[1], f"127.0.0.1:{port}")
    assert getattr(refused.value, "reason", "") == "PORT_IN_USE"
    for server in servers:
        await server.stop(0)
