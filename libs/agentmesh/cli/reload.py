"""Restarts what a change touches: the runner for agents' files, the gateway for its own, everything for the mesh's."""

import asyncio
import importlib.util
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from agentmesh.cli.supervisor import STOP_ORDER, Supervisor
from agentmesh.kit import config_source, names
from agentmesh.kit.settings import Settings

_POLL_S = 0.5
_MESH = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Rule:
    """Which services start again when one of the files changes, or a Python file in one of the folders."""

    roots: Sequence[Path]
    roles: Sequence[str]


def rules_for(settings: Settings, *, everything: bool) -> list[Rule]:
    """Return what is to be watched, by `hot_reload` and `api.reload`, or all there is."""
    rules = []
    if everything:
        rules.append(Rule([_MESH], STOP_ORDER))
    if everything or settings.hot_reload:
        rules.append(Rule(settings.runner.agents, (names.RUNNER,)))
    if everything or settings.api.reload:
        gateway = importlib.util.find_spec("agentmesh_gateway")
        folders = gateway.submodule_search_locations if gateway else None
        file = config_source.file_of(settings)
        rules.append(Rule([*map(Path, folders or ()), *([file] if file else [])], (names.GATEWAY,)))
    return [rule for rule in rules if rule.roots]


async def watch(supervisor: Supervisor, rules: Sequence[Rule]) -> None:
    """Look at the files twice a second until cancelled."""
    if not rules:
        return
    before = await asyncio.to_thread(_look, rules)
    while True:
        await asyncio.sleep(_POLL_S)
        now = await asyncio.to_thread(_look, rules)
        touched = [rule for rule, was, found in zip(rules, before, now, strict=True) if was != found]
        changed = {role for rule in touched for role in rule.roles}
        _restart(supervisor, [role for role in STOP_ORDER if role in changed])
        before = now


def _restart(supervisor: Supervisor, roles: Iterable[str]) -> None:
    """Ask services to drain; the supervisor starts them again."""
    for role in roles:
        service = supervisor.services.get(role)
        if service is not None and service.process is not None and service.process.poll() is None:
            supervisor.report({"event": "reloading", "service": role})
            service.process.terminate()


def _look(rules: Iterable[Rule]) -> list[dict[Path, int]]:
    return [_snapshot(rule.roots) for rule in rules]


def _snapshot(roots: Iterable[Path]) -> dict[Path, int]:
    files = (file for root in roots for file in (root.rglob("*.py") if root.is_dir() else [root]))
    found = {}
    for file in files:
        try:
            found[file] = file.stat().st_mtime_ns
        except FileNotFoundError:
            continue  # an editor that saves by renaming takes it away for a moment
    return found
