"""What follows from what a transaction did: tasks of lost leases, strays, children of tasks that ended badly.

Pure: `follow` says which rows it needs to see, and the adapter that drives it loads them into the ledger. A row that
the ledger holds already stays as it is there.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from agentmesh_storage import leases
from agentmesh_storage.domain import Task
from agentmesh_storage.ledger import Ledger


@dataclass(frozen=True, slots=True)
class LoadLeased:
    """Asks for the tasks that a runner holds."""

    incarnation: str


@dataclass(frozen=True, slots=True)
class LoadTasks:
    """Asks for tasks by id."""

    ids: frozenset[str]


@dataclass(frozen=True, slots=True)
class LoadLeases:
    """Asks for leases by incarnation."""

    incarnations: frozenset[str]


@dataclass(frozen=True, slots=True)
class LoadChildren:
    """Asks for the children of a task that have not ended."""

    parent_id: str


Needed = LoadLeased | LoadTasks | LoadLeases | LoadChildren


def follow(ledger: Ledger) -> Iterator[Needed]:
    """Take tasks from freed runners, hand strays back, stop the children of tasks that ended badly."""
    for incarnation in ledger.freed:
        yield from _load_held(ledger, incarnation)
        for task in _held(ledger, incarnation):
            leases.lose(ledger, task)
    for router, sync, created in ledger.synced:
        yield from _load_held(ledger, sync.incarnation)
        held = _held(ledger, sync.incarnation)
        if unknown := {task.router for task in held} - ledger.runners.keys():
            yield LoadLeases(frozenset(unknown))
        for task in held:
            if leases.is_stray(ledger, task, router, sync, created):
                leases.hand_back(ledger, task)
    for parent_id in ledger.ended_badly:  # which grows here: a child that is stopped has children, too
        yield LoadChildren(parent_id)
        for child in [task for task in ledger.tasks.values() if task.parent_id == parent_id]:
            if not child.state.terminal:
                ledger.cancel(child)


def _load_held(ledger: Ledger, incarnation: str) -> Iterator[Needed]:
    """Ask for what a runner holds and for the parents, in whose logs an end is written."""
    yield LoadLeased(incarnation)
    parents = {task.parent_id for task in _held(ledger, incarnation) if task.parent_id}
    if missing := parents - ledger.tasks.keys():
        yield LoadTasks(frozenset(missing))


def _held(ledger: Ledger, incarnation: str) -> list[Task]:
    """Return what a runner holds, also what it got in this transaction."""
    return [task for task in ledger.tasks.values() if task.incarnation == incarnation]
