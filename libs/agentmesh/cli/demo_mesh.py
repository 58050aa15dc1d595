"""The mesh of a demo: free ports, a folder of its own, started before the show and stopped after it."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from agentmesh.cli.supervisor import Supervisor, ports_from
from agentmesh.kit.errors import Unavailable

_FIRST_PORT, _LAST_PORT = 50_100, 50_900


def overrides_for(folder: str, first_port: int) -> dict[str, object]:
    """Return the configuration of a mesh that keeps everything in a folder and says nothing on the terminal."""
    return {
        **ports_from(first_port),
        "data_dir": folder,
        "logging.console": False,
        "logging.file": True,
        "drain_timeout_s": 5,
    }


@asynccontextmanager
async def running(supervisor: Supervisor) -> AsyncIterator[None]:
    """Run the mesh while the block does; raises MeshError if it can't start."""
    stop, ready = asyncio.Event(), asyncio.Event()
    mesh = asyncio.create_task(supervisor.run(stop, ready))
    waiting = asyncio.create_task(ready.wait())
    try:
        await asyncio.wait({mesh, waiting}, return_when=asyncio.FIRST_COMPLETED)
        if mesh.done():
            await mesh
            raise Unavailable("the mesh ended before it was ready")
        yield
    finally:
        waiting.cancel()
        stop.set()
        await asyncio.wait({mesh})


def free_ports(count: int) -> int:
    """Return N such that N to N + count - 1 are free now."""
    for first in range(_FIRST_PORT, _LAST_PORT, count):
        with suppress(OSError):
            for port in range(first, first + count):
                with socket.socket() as probe:
                    probe.bind(("127.0.0.1", port))
            return first
    raise Unavailable(f"no {count} free ports in a row between {_FIRST_PORT} and {_LAST_PORT}")
