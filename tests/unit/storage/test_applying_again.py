"""A transaction that met another one starts over: its mutations, applied again, mean the same."""

import pytest

from agentmesh.kit.errors import MeshError
from agentmesh_storage import domain as d
from agentmesh_storage.ledger import Ledger
from agentmesh_storage.rules import Rules

RUNNER = "runner~a"


def create(claim: d.Claim | None) -> d.CreateTask:
    return d.CreateTask(d.Task("t1", "acme", "echo", b"", create_ms=0, request_id="r"), {"a": "b"}, claim=claim)


def parent() -> d.Task:
    return d.Task("p", "acme", "echo", b"", create_ms=0, attempt=1, incarnation=RUNNER, state=d.State.WORKING)


def applied(mutation: d.Mutation) -> tuple[d.Outcome, Ledger]:
    """Apply a mutation as a transaction does that has just begun."""
    ledger = Ledger(now_ms=1_000_000, rules=Rules())
    ledger.runners[RUNNER] = d.Runner(RUNNER, "runner", lease_until_ms=2_000_000)
    ledger.tasks["p"] = parent()
    outcome = ledger.apply(mutation)
    assert not isinstance(outcome, MeshError)
    return outcome, ledger


@pytest.mark.parametrize(
    "change",
    [
        create(None),
        create(d.Claim(RUNNER, "1")),
        d.SpawnTask("p", 1, "step", create(None)),
        d.SpawnTask("p", 1, "step", create(d.Claim(RUNNER, "1"))),
    ],
    ids=["created", "created and claimed", "spawned", "spawned and claimed"],
)
def test_a_task_that_is_made_again_begins_at_its_beginning(change: d.Change) -> None:
    mutation = d.Mutation("acme", change)
    first, one = applied(mutation)
    again, other = applied(mutation)
    assert again == first
    assert other.chunks == one.chunks
    assert [chunk.first_sequence for chunk in other.chunks if chunk.task_id == "t1"] == [1]
    assert other.tasks == one.tasks


def test_a_task_in_a_ledger_changes_and_the_mutation_does_not() -> None:
    change = create(d.Claim(RUNNER, "1"))
    before = change.task.copy()
    _, ledger = applied(d.Mutation("acme", change))
    made = ledger.tasks["t1"]
    made.usage.llm_calls = 3
    assert ledger.by_request["acme", "r"] is made
    assert ledger.created["t1"].task is made
    assert made.attempt == 1
    assert change.task == before
