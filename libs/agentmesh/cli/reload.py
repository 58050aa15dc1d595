"""Restarts what a code change touches: the runner for agents' files, everything for the mesh's own code."""

import asyncio
from collections.abc import Iterable
from pathlib import Path

from agentmesh.cli.supervisor import STOP_ORDER, Supervisor
from agentmesh.kit import names

_POLL_S = 0.5
_MESH = Path(__file__).resolve().parents[1]


async def watch(supervisor: Supervisor) -> None:
    """Look at the files twice a second until cancelled."""
    agents = [Path(path) for path in supervisor.settings.runner.agents]
    before = await asyncio.to_thread(_snapshot, agents), await asyncio.to_thread(_snapshot, [_MESH])
    while True:
        await asyncio.sleep(_POLL_S)
        now = await asyncio.to_thread(_snapshot, agents), await asyncio.to_thread(_snapshot, [_MESH])
        if now[1] != before[1]:
            _restart(supervisor, STOP_ORDER)
        elif now[0] != before[0]:
            _restart(supervisor, (names.RUNNER,))
        before = now


def _restart(supervisor: Supervisor, roles: Iterable[str]) -> None:
    """Ask services to drain; the supervisor starts them again."""
    for role in roles:
        process = supervisor.services[role].process
        if process is not None and process.poll() is None:
            supervisor.report({"event": "reloading", "service": role})
            process.terminate()


def _snapshot(roots: Iterable[Path]) -> dict[Path, int]:
    files = (file for root in roots for file in (root.rglob("*.py") if root.is_dir() else [root]))
    found = {}
    for file in files:
        try:
            found[file] = file.stat().st_mtime_ns
        except FileNotFoundError:
            continue  # an editor that saves by renaming takes it away for a moment
    return found
