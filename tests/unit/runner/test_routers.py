"""A runner with several routers: each attempt has one that speaks for it, and each knows what the others use."""

import asyncio
import time

from agentmesh.api.runner.v1 import runner_service_pb2 as runner_pb
from agentmesh_runner.session import _SLOTS_PAUSE_S
from tests.unit.runner.attempts import Router, Runner, turns


async def until_told(router: Router, slots: tuple[int, dict[str, int]]) -> None:
    """Wait until the last that a router was told of slots elsewhere is this; the test's timeout is the bound."""
    while not router.elsewhere or router.elsewhere[-1] != slots:
        await asyncio.sleep(0.002)


async def test_attempts_of_a_router_that_goes_are_offered_at_once_to_the_one_with_fewest() -> None:
    runner = Runner()
    first, busy, idle = (runner.connect(name) for name in "abc")
    first.assign("t1", "t2")
    busy.assign("t3")
    await turns()
    first.hang_up()
    await turns()
    assert (busy.offers, idle.offers) == ([[]], [[], ["t1", "t2"]])


async def test_what_was_adopted_speaks_to_its_new_router_from_where_the_old_one_stood() -> None:
    runner = Runner()
    first, second = runner.connect("a"), runner.connect("b")
    first.assign("t1", agent="asker")
    await turns()
    first.hang_up()
    await turns()
    second.adopt(runner_pb.Resume(task_id="t1", attempt=1, acked_offset=0))
    await turns()
    batches = [batch for message in second.heard for batch in message.events]
    assert [(batch.task_id, batch.first_offset) for batch in batches] == [("t1", 0)]
    assert [notice.waiting for message in second.heard for notice in message.waiting] == [True]


async def test_what_was_offered_and_not_adopted_is_offered_again_when_that_router_goes_too() -> None:
    runner = Runner()
    first, second, third = (runner.connect(name) for name in "abc")
    third.assign("t9")
    first.assign("t1")
    await turns()
    first.hang_up()
    fourth = runner.connect("d")
    await turns()
    assert (second.offers, fourth.offers) == ([[], ["t1"]], [[]])
    second.hang_up()
    await turns()
    assert fourth.offers == [[], ["t1"]]


async def test_without_another_router_attempts_wait_for_the_next() -> None:
    runner = Runner()
    first = runner.connect("a")
    first.assign("t1")
    await turns()
    first.hang_up()
    second = runner.connect("b")
    await turns()
    assert second.offers == [["t1"]]


async def test_a_router_that_comes_back_gets_its_own_attempts_though_its_old_stream_is_still_open() -> None:
    runner = Runner()
    old, other = runner.connect("a"), runner.connect("b")
    old.assign("t1")
    await turns()
    again = runner.connect("a")
    old.hang_up()
    old.assign("t2")
    await turns()
    assert (again.offers, other.offers) == ([["t1"]], [[]])
    assert old.outcomes == {}


async def test_the_first_message_is_the_hello_alone() -> None:
    runner = Runner()
    first = runner.connect("a")
    first.assign("t1")
    second = runner.connect("b")
    await until_told(second, (1, {}))
    assert second.heard[0].HasField("hello")
    assert [name.name for name, _ in second.heard[0].ListFields()] == ["hello"]


async def test_each_router_is_told_what_the_others_use_and_nothing_while_it_is_alone() -> None:
    runner = Runner()
    first = runner.connect("a")
    first.assign("t1", "t2")
    await turns()
    assert first.elsewhere == []
    second = runner.connect("b")
    second.assign("t3")
    second.assign("t4", agent="asker")
    await until_told(first, (1, {}))
    await until_told(second, (2, {}))
    first.say(stops=[runner_pb.StopAttempt(task_id="t1", attempt=1, reason=runner_pb.StopAttempt.REASON_CANCELED)])
    await until_told(second, (1, {}))
    first.hang_up()
    await turns()
    second.adopt(runner_pb.Resume(task_id="t2", attempt=1))
    await until_told(second, (0, {}))


async def test_agents_with_slots_of_their_own_are_counted_apart() -> None:
    runner = Runner()
    first, second = runner.connect("a"), runner.connect("b")
    # The journal's next page never comes, so that no process starts.
    first.assign("t1", "t2", agent="outsider", journal_continues=True)
    first.assign("t3")
    await until_told(second, (3, {"outsider": 2}))
    assert first.elsewhere == []


async def test_a_burst_of_changes_shares_messages() -> None:
    runner = Runner()
    first, second = runner.connect("a"), runner.connect("b")
    await turns()
    began = time.monotonic()
    for number in range(200):
        first.assign(f"t{number}")
        await asyncio.sleep(0)
    await until_told(second, (200, {}))
    pauses = (time.monotonic() - began) / _SLOTS_PAUSE_S
    assert len(second.elsewhere) <= pauses + 2


async def test_a_runner_that_drains_tells_every_router_and_hands_back_what_still_comes() -> None:
    runner = Runner()
    first, second = runner.connect("a"), runner.connect("b")
    await turns()
    draining = asyncio.create_task(runner.service.drain(10))
    await asyncio.sleep(0)
    first.assign("t1")
    third = runner.connect("c")
    await turns()
    for router in (first, second, third):
        assert [m.heartbeat.draining for m in router.heard if m.HasField("heartbeat")] == [True]
    assert first.outcomes["t1"].WhichOneof("kind") == "released"
    assert not first.outcomes["t1"].released.passivate
    first.say(acks=[runner_pb.AckedOffset(task_id="t1", attempt=1, offset=1)])
    for router in (first, second, third):
        await turns()
        assert not draining.done()
        router.renew(1)
    await draining


async def test_a_drain_parks_what_waits_lets_the_rest_end_and_hands_back_what_does_not() -> None:
    runner = Runner()
    router = runner.connect("a")
    router.assign("works")
    router.assign("waits", agent="asker")
    await turns()
    draining = asyncio.create_task(runner.service.drain(0.05))
    await turns()
    assert list(router.outcomes) == ["waits"]
    assert router.outcomes["waits"].released.passivate
    while "works" not in router.outcomes:
        await asyncio.sleep(0.005)
    assert router.outcomes["works"] == runner_pb.Outcome(released=runner_pb.Outcome.Release())
    acks = [("works", 1), ("waits", 2)]
    router.say(acks=[runner_pb.AckedOffset(task_id=t, attempt=1, offset=o) for t, o in acks])
    router.renew(1)
    await draining
    assert not router.session.open
