"""Which rows a batch of mutations needs to see, over every backend."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from agentmesh_storage.domain import (
    AppendEvents,
    CreateTask,
    FreeRunner,
    GiveInput,
    Mutation,
    RenewLease,
    SpawnTask,
    State,
    SyncRunner,
)


@dataclass(slots=True)
class Wanted:
    """What a batch needs to see."""

    tasks: set[str] = field(default_factory=set)
    with_parent: set[str] = field(default_factory=set)
    leases: set[str] = field(default_factory=set)
    changing: set[str] = field(default_factory=set)
    names: set[str] = field(default_factory=set)
    requests: set[tuple[str, str]] = field(default_factory=set)
    parent_steps: set[tuple[str, str]] = field(default_factory=set)
    answers: set[tuple[str, str]] = field(default_factory=set)


def wanted_by(mutations: Iterable[Mutation]) -> Wanted:
    """Look through a batch."""
    wanted = Wanted()
    for mutation in mutations:
        change = mutation.change
        if isinstance(change, AppendEvents):
            wanted.tasks.add(change.task_id)
            if change.state is not State.UNSPECIFIED:
                wanted.with_parent.add(change.task_id)
                wanted.tasks.update(change.awaited_task_ids)
                if change.passivate and change.input_id:
                    wanted.answers.add((change.task_id, change.input_id))
        elif isinstance(change, CreateTask):
            _created(wanted, change)
        elif isinstance(change, SpawnTask):
            wanted.tasks.add(change.parent_id)
            wanted.parent_steps.add((change.parent_id, change.step_key))
            _created(wanted, change.child)
        elif isinstance(change, RenewLease):
            wanted.changing.add(change.incarnation)
            wanted.names.add(change.name)
        elif isinstance(change, FreeRunner | SyncRunner):
            wanted.changing.add(change.incarnation)
        elif isinstance(change, GiveInput):
            wanted.tasks.add(change.task_id)
            wanted.answers.add((change.task_id, change.input_id))
        elif hasattr(change, "task_id"):
            wanted.tasks.add(change.task_id)
            wanted.with_parent.add(change.task_id)
    return wanted


def _created(wanted: Wanted, change: CreateTask) -> None:
    if change.task.request_id:
        wanted.requests.add((change.task.tenant, change.task.request_id))
    if change.claim is not None:
        wanted.leases.add(change.claim.incarnation)
