"""A runner acts for its tasks only while its lease lasts, whatever lay in its sockets when it was frozen."""

import asyncio

import pytest

from agentmesh.api.llm.v1 import llm_service_pb2 as llm_pb
from agentmesh.api.runner.v1 import runner_service_pb2 as runner_pb
from agentmesh.api.task.v1 import task_pb2
from agentmesh.kit.errors import StaleAttempt
from agentmesh.sdk import TaskContext, agent
from agentmesh_runner.running import Running
from tests.unit.runner.attempts import LEASE_S, Runner, turns


def frozen(runner: Runner) -> None:
    """Let more time pass than the lease lasts, while nothing runs."""
    runner.time += LEASE_S + 1


async def test_a_lease_that_is_not_renewed_ends_every_attempt_without_a_word() -> None:
    runner = Runner()
    router = runner.connect("a")
    router.assign("t1", "t2")
    await turns()
    before = runner.service.incarnation
    frozen(runner)
    runner.service.look()
    await turns()
    assert not router.session.open
    assert router.outcomes == {}
    again = runner.connect("a")
    await turns()
    assert again.offers == [[]]
    assert again.heard[0].hello.incarnation == runner.service.incarnation != before


async def test_a_renewal_counts_from_when_its_heartbeat_was_sent_even_if_it_comes_late() -> None:
    runner = Runner()
    router = runner.connect("a")
    router.assign("t1")
    runner.time += 10
    runner.service.look()
    runner.time += LEASE_S - 1
    router.renew(1)
    assert runner.lease.until == 1010 + LEASE_S
    assert router.session.open


async def test_an_assignment_that_lay_in_the_socket_of_a_frozen_runner_is_not_begun() -> None:
    begun: list[str] = []

    @agent("noter", inline=True)
    async def noter(ctx: TaskContext) -> None:
        begun.append(ctx.task_id)

    runner = Runner(noter)
    idle = runner.connect("a")
    await turns()
    frozen(runner)
    idle.assign("t1", agent="noter")
    await turns()
    assert idle.outcomes["t1"].WhichOneof("kind") == "released"
    runner.service.look()
    assert idle.session.open, "there was nothing to lose"
    idle.renew(1)
    idle.assign("t2", "t3")
    frozen(runner)
    idle.assign("t4", agent="noter")
    await turns()
    assert not idle.session.open
    assert begun == []


async def test_a_router_that_connects_first_after_a_freeze_is_offered_nothing() -> None:
    runner = Runner()
    gone = runner.connect("a")
    gone.assign("t1")
    await turns()
    gone.hang_up()
    frozen(runner)
    router = runner.connect("b")
    await turns()
    assert router.offers == [[]]


async def test_connecting_alone_does_not_prolong_the_lease_of_what_runs() -> None:
    runner = Runner()
    first = runner.connect("a")
    first.assign("t1")
    until = runner.lease.until
    runner.time += 5
    second = runner.connect("b")
    assert runner.lease.until == until
    second.renew(0)
    assert runner.lease.until == until + 5


@pytest.mark.parametrize("call", ["generate", "store", "load", "spawn"])
async def test_a_call_that_is_made_after_a_freeze_stops_its_attempt_before_anybody_looks_at_the_time(
    call: str,
) -> None:
    attempts: list[Running] = []

    @agent("waiter", inline=True)
    async def waiter(ctx: TaskContext) -> None:
        await asyncio.Event().wait()

    runner = Runner(waiter)
    router = runner.connect("a")
    router.assign("t1", agent="waiter")
    attempts.extend(router.session.attempts.values())
    await turns()
    (attempt,) = attempts
    frozen(runner)
    calls = {
        "generate": lambda: anext(attempt.generate(llm_pb.GenerateRequest(idempotency_key="k"))),
        "store": lambda: attempt.store_artifact("n", "text/plain", b"x"),
        "load": lambda: attempt.load_artifact("a"),
        "spawn": lambda: attempt.spawn("s", task_pb2.TaskSpec(agent="echo")),
    }
    with pytest.raises(StaleAttempt):
        await calls[call]()
    await turns()
    assert runner.models.asked == {}
    assert attempt.spawns == []
    assert attempt.task is not None
    assert attempt.task.done()
    assert router.outcomes == {}
    assert not router.session.open


async def test_an_outcome_that_was_reached_during_a_freeze_is_not_said() -> None:
    go = asyncio.Event()

    @agent("goer", inline=True)
    async def goer(ctx: TaskContext) -> None:
        await go.wait()

    runner = Runner(goer)
    router = runner.connect("a")
    router.assign("t1", agent="goer")
    await turns()
    frozen(runner)
    go.set()
    await turns()
    assert router.outcomes == {}
    assert runner.connect("b").session.open


async def test_a_lease_that_was_taken_ends_everything_at_every_router() -> None:
    runner = Runner()
    first, second = runner.connect("a"), runner.connect("b")
    first.assign("t1")
    second.assign("t2")
    first.say(lease=runner_pb.LeaseRenewed(heartbeat=1))
    await turns()
    assert not first.session.open
    assert not second.session.open
    again = runner.connect("a")
    await turns()
    assert again.offers == [[]]
