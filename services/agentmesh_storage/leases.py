"""The rules of leases, pure: who lives, who is gone, and what becomes of the tasks of those who are.

Routers hold leases like runners, so that what a dead one had claimed and not yet assigned can be handed back.
"""

from typing import TYPE_CHECKING

from agentmesh.kit import errors
from agentmesh_storage import events
from agentmesh_storage.domain import (
    AnnounceAgents,
    FreeRunner,
    Mutation,
    Outcome,
    RenewLease,
    Runner,
    State,
    SyncRunner,
    Task,
)

if TYPE_CHECKING:
    from agentmesh_storage.ledger import Ledger

_LOSS_BACKOFF_MS = 250  # doubles with each lost lease, to at most _LOSS_BACKOFF_MAX_MS
_LOSS_BACKOFF_MAX_MS = 10_000
_ROUTER = "router@"  # names of routers begin so
_TAKEOVER_MS = 5_000  # how long the runners of a router that is gone have to find another one


def renew(ledger: "Ledger", mutation: Mutation) -> Outcome:
    """Keep a lease, or begin one; a new incarnation of a name frees the older ones."""
    change = mutation.change
    assert isinstance(change, RenewLease)
    until = ledger.now_ms + change.ttl_ms
    runner = ledger.runners.get(change.incarnation)
    namesakes = [r for r in ledger.runners.values() if r.name == change.name and not r.freed]
    if runner is None:
        for other in namesakes:
            free(ledger, other)
        runner = ledger.runners[change.incarnation] = Runner(change.incarnation, change.name, until)
    elif runner.freed and (namesakes or not change.name.startswith(_ROUTER)):
        # A router that was frozen goes on: what it says for an attempt is fenced by the attempt.
        raise errors.StaleAttempt("the lease was lost", reason="LEASE_LOST")
    runner.freed = False
    runner.lease_until_ms = until
    ledger.changed_runners[runner.incarnation] = runner
    return Outcome()


def free_runner(ledger: "Ledger", mutation: Mutation) -> Outcome:
    """End a lease that somebody knows to be over."""
    change = mutation.change
    assert isinstance(change, FreeRunner)
    runner = ledger.runners.get(change.incarnation)
    if runner is not None and not runner.freed:
        free(ledger, runner)
    return Outcome()


def free(ledger: "Ledger", runner: Runner) -> None:
    """Take a lease away; `consequences` then calls `lose` for each of the runner's tasks."""
    runner.freed = True
    runner.lease_until_ms = min(runner.lease_until_ms, ledger.now_ms)
    ledger.changed_runners[runner.incarnation] = runner
    ledger.freed.append(runner.incarnation)


def sync(ledger: "Ledger", mutation: Mutation) -> Outcome:
    """Note what a router says that a runner works on; `consequences` then calls `hand_back` for each stray."""
    change = mutation.change
    assert isinstance(change, SyncRunner)
    ledger.synced.append((mutation.origin, change, frozenset(ledger.created)))
    return Outcome()


def announce(ledger: "Ledger", mutation: Mutation) -> Outcome:
    """Take in what a runner serves."""
    change = mutation.change
    assert isinstance(change, AnnounceAgents)
    ledger.agents.extend(change.agents)
    return Outcome()


def is_stray(ledger: "Ledger", task: Task, router: str, change: SyncRunner, created: frozenset[str]) -> bool:
    """Say whether a task is leased to a runner that nobody told of it.

    What was created in the same transaction, but after the router spoke (not in `created`), it could not speak of.
    Another router that lives may have claimed it a moment ago: what it assigns is its own business.
    """
    if task.id in change.running or (task.id in ledger.created and task.id not in created):
        return False
    if task.router in ("", router):
        return True
    other = ledger.runners.get(task.router)
    return other is None or other.lease_until_ms + _TAKEOVER_MS < ledger.now_ms


def hand_back(ledger: "Ledger", task: Task) -> None:
    """Make a task ready again whose runner never began it; this costs it nothing."""
    task.losses -= 1
    lose(ledger, task)


def lose(ledger: "Ledger", task: Task) -> None:
    """Take a task from a runner that is gone."""
    task.incarnation = ""
    task.losses += 1
    ledger.changed[task.id] = task
    ledger.credit(task.id, "")
    if task.cancel_ms is not None:
        ledger.finish(task, State.CANCELED)
    elif task.losses > ledger.rules.max_losses:
        error = errors.Unavailable("the task lost its runner too often", reason="ATTEMPTS_EXHAUSTED")
        ledger.finish(task, State.FAILED, events.status(error))
    elif task.state is not State.INPUT_REQUIRED:
        wait = min(_LOSS_BACKOFF_MS << (task.losses - 1), _LOSS_BACKOFF_MAX_MS) if task.losses > 1 else 0
        task.state = State.SUBMITTED
        ledger.make_ready(task, ledger.now_ms + wait)
        error = errors.Unavailable("the runner was lost", reason="LEASE_LOST")
        text = events.state_changed(State.SUBMITTED, ledger.now_ms, events.status(error), task.ready_ms)
        ledger.say(task, 0, 1, text)
