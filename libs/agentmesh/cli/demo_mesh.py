"""The mesh of a demo: free ports, a folder of its own, started before the show and stopped after it."""

import asyncio
import random
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Final

from agentmesh.cli.supervisor import Supervisor, ports_from
from agentmesh.kit.errors import Unavailable

PORTS: Final = 15
"""Ports in a row that a demo gets, whichever it is."""
# Below the ports that systems give to outgoing connections: one of those could be gone between a look and its use.
_FIRST_PORT, _LAST_PORT = 18_000, 19_999


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


@contextmanager
def free_ports() -> Iterator[int]:
    """Yield N such that N to N + PORTS - 1 are free now, and no other demo's while the block runs.

    Port N - 1 stays bound meanwhile, so that demos started at once keep out of each other's way.
    """
    guards = range(_FIRST_PORT, _LAST_PORT - PORTS + 1, 1 + PORTS)
    for guard in random.sample(guards, len(guards)):
        first = guard + 1
        with socket.socket() as held:
            if _binds(held, guard) and all(map(_is_free, range(first, first + PORTS))):
                yield first
                return
    raise Unavailable(f"no {PORTS} free ports in a row between {_FIRST_PORT} and {_LAST_PORT}")


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        return _binds(probe, port)


def _binds(probe: socket.socket, port: int) -> bool:
    try:
        probe.bind(("127.0.0.1", port))
    except OSError:
        return False
    return True
