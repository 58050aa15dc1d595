"""Free ports for meshes that tests start: a port that one test process got, no other gets while it lives."""

import random
import socket
import tempfile
from pathlib import Path

from agentmesh.kit.errors import WrongState
from agentmesh.kit.folder_lock import FolderLock

_BLOCK = 10
# Below the ports that the system hands out by itself.
_FIRST, _END = 20_000, 32_000
_LOCKS = Path(tempfile.gettempdir()) / "agentmesh-test-ports"
_held: dict[int, FolderLock] = {}


def free_ports(count: int = _BLOCK) -> int:
    """Return N such that N to N + count - 1 are free now, and nobody else's as long as this process lives."""
    blocks = -(-count // _BLOCK)
    choices = range(_FIRST, _END - blocks * _BLOCK, _BLOCK)
    for first in random.sample(choices, len(choices)):
        wanted = [first + index * _BLOCK for index in range(blocks)]
        if _take(wanted):
            if all(_is_free(port) for port in range(first, first + count)):
                return first
            give_back(first, count)
    raise RuntimeError(f"no {count} free ports in a row")


def give_back(first: int, count: int = _BLOCK) -> None:
    """Let ports from `free_ports` go."""
    for block in range(first, first + count, _BLOCK):
        _held.pop(block).release()


def _take(blocks: list[int]) -> bool:
    taken: dict[int, FolderLock] = {}
    for block in blocks:
        try:
            taken[block] = FolderLock(_LOCKS, f"{block}.lock")
        except WrongState:
            for lock in taken.values():
                lock.release()
            return False
    _held.update(taken)
    return True


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
