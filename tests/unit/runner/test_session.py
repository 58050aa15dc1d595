import asyncio

from agentmesh.api.runner.v1 import runner_service_pb2 as runner_pb
from agentmesh.api.task.v1 import task_pb2
from agentmesh.kit import names
from agentmesh_runner.session import Session
from tests.unit.runner.attempts import delta, running

MIB = 1024 * 1024


async def sent(session: Session) -> list[runner_pb.ExecuteTasksResponse]:
    """Return every message that goes out until nothing is left to say."""
    messages: list[runner_pb.ExecuteTasksResponse] = []

    async def read() -> None:
        messages.extend([message async for message in session.messages()])

    reader = asyncio.create_task(read())
    for _ in range(200):
        await asyncio.sleep(0)
    session.close()
    await reader
    return messages


async def test_what_many_attempts_say_shares_a_message() -> None:
    session = Session("r")
    for number in range(20):
        await running(session, f"t{number}").say([delta("x")])
    session.beat(0.0, draining=False)
    session.beat(1.0, draining=True)
    (message,) = await sent(session)
    assert {batch.task_id for batch in message.events} == {f"t{number}" for number in range(20)}
    assert (message.heartbeat.number, message.heartbeat.draining) == (1, True)


async def test_no_message_is_larger_than_a_peer_takes_however_much_there_is_to_say() -> None:
    session = Session("r")
    result = bytes(names.MAX_STEP_RESULT_BYTES)
    for number in range(40):
        attempt = running(session, f"t{number}")
        await attempt.say([delta("x")], [runner_pb.StepRecord(key="s", result=result)])
    messages = await sent(session)
    assert sum(len(message.events) for message in messages) == 40
    assert max(message.ByteSize() for message in messages) < names.MAX_MESSAGE_BYTES


async def test_spawns_too_are_spread_over_messages() -> None:
    session = Session("r")
    attempt = running(session)
    spec = task_pb2.TaskSpec(agent="echo", prompt="x" * 900_000)
    asked = [asyncio.create_task(attempt.spawn(f"s{number}", spec)) for number in range(8)]
    messages = await sent(session)
    assert [spawn.step_key for message in messages for spawn in message.spawns] == [f"s{n}" for n in range(8)]
    assert max(message.ByteSize() for message in messages) < names.MAX_MESSAGE_BYTES
    for task in asked:
        task.cancel()


async def test_a_loud_attempt_does_not_silence_the_others() -> None:
    session = Session("r")
    loud, quiet = running(session, "loud"), running(session, "quiet")
    for _ in range(5):
        await loud.say([delta("x" * 200_000)])
    await quiet.say([delta("psst")])
    await loud.say([delta("x")])
    messages = await sent(session)
    assert "quiet" in {batch.task_id for batch in messages[0].events}


async def test_an_attempts_batches_come_in_order_and_leave_out_nothing() -> None:
    session = Session("r")
    attempt = running(session)
    for number in range(5):
        await attempt.say([delta(f"{number}" * 200_000)])
    batches = [batch for message in await sent(session) for batch in message.events]
    assert [batch.first_offset for batch in batches] == sorted(batch.first_offset for batch in batches)
    assert sum(len(batch.events) for batch in batches) > 1_000_000


async def test_only_what_was_beaten_lately_is_remembered_and_the_hello_counts_as_0() -> None:
    session = Session("r")
    session.beat(7.0, draining=False)
    assert session.answered(0) == 7.0
    for number in range(1, 100):
        session.beat(float(number), draining=False)
    assert [session.answered(number) for number in (0, 79, 99, 100)] == [None, None, 99.0, None]
    (message,) = await sent(session)
    assert message.heartbeat.number == 99


async def test_waiting_is_told_once_as_it_is_now() -> None:
    session = Session("r")
    attempt = running(session)
    attempt.waiting(["c1"])
    attempt.waiting(["c1", "c2"])
    (message,) = await sent(session)
    assert [(notice.task_id, notice.waiting) for notice in message.waiting] == [("t1", True)]
    assert attempt.awaited == ["c1", "c2"]
