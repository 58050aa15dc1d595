"""A gateway on a real port in front of the services in memory, whose router can die and come back."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
import httpx

from agentmesh.kit.auth import Authenticator, Keyring
from agentmesh.kit.health import Health
from agentmesh.kit.rpc_server import build_server, listen
from agentmesh.kit.settings import Settings
from agentmesh_gateway import app, server
from agentmesh_gateway.settings import Bounds
from tests.unit.gateway.fake_router import FakeArtifacts, FakeTasks, services_of


@dataclass
class Running:
    """What a test holds of the mesh."""

    tasks: FakeTasks
    artifacts: FakeArtifacts
    client: httpx.AsyncClient
    stop: asyncio.Event
    port: int = 0
    router_port: int = 0
    router: grpc.aio.Server | None = field(default=None, repr=False)
    done: "asyncio.Task[None] | None" = None

    async def start_router(self) -> None:
        """Serve the router, on the port that it had before."""
        self.router = build_server(Authenticator(Keyring("s"), anonymous=True), services_of(self.tasks, self.artifacts))
        health = Health([], {})
        await health.add_to(self.router)
        await health.refresh()
        self.router_port = listen(self.router, f"127.0.0.1:{self.router_port}")
        await self.router.start()

    async def kill_router(self) -> None:
        """Drop the router and every call it has, at once."""
        assert self.router is not None
        await self.router.stop(None)


@asynccontextmanager
async def running(bounds: Bounds | None = None, **security: Any) -> AsyncIterator[Running]:
    """Run the gateway; without anything else said, in development, where nobody needs a key."""
    bounds = bounds or Bounds(resume_backoff_s=0.02, resume_max_backoff_s=0.1)
    async with AsyncExitStack() as stack:
        listener = server.bind("127.0.0.1", 0)
        port = listener.getsockname()[1]
        client = await stack.enter_async_context(httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=10))
        mesh = Running(FakeTasks(), FakeArtifacts(), client, asyncio.Event(), port)
        await mesh.start_router()
        stack.push_async_callback(mesh.kill_router)
        nowhere = {"address": ["127.0.0.1:1"]}
        settings = Settings.model_validate(
            {
                "services": {
                    "router": {"address": [f"127.0.0.1:{mesh.router_port}"]},
                    "runner": nowhere,
                    "llm": nowhere,
                    "storage": nowhere,
                },
                "security": {"authentication": False, **security},
            }
        )
        gateway = app.build(settings, Keyring("s"), stack, bounds)
        mesh.done = asyncio.create_task(
            server.serve_until(
                mesh.stop, gateway.app, listener, bounds=bounds, draining=gateway.draining, drain_timeout_s=5
            )
        )
        try:
            yield mesh
        finally:
            await client.aclose()
            mesh.stop.set()
            await mesh.done
