import asyncio
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentmesh.api.runner.v1 import runner_service_pb2 as runner_pb
from agentmesh.api.task.v1 import events_pb2 as pb
from agentmesh.kit import names
from agentmesh.sdk.errors import AgentError
from agentmesh_runner.attempt_log import MAX_UNACKED_BYTES, AttemptLog, encode


def delta(text: str) -> pb.TaskEvent:
    return pb.TaskEvent(text_delta=pb.TextDelta(text=text))


def texts(batch: runner_pb.EventBatch) -> list[str]:
    return [event.text_delta.text for event in pb.EventList.FromString(batch.events).events]


def record(key: str, index: int) -> runner_pb.StepRecord:
    return runner_pb.StepRecord(key=key, event_index=index, result=b"r")


async def filled(sizes: list[int]) -> AttemptLog:
    """Return a log with groups of so many events, each group with a step at its last event, and an outcome."""
    log = AttemptLog("t", 1)
    number = 0
    for size in sizes:
        await log.say([delta(str(number + i)) for i in range(size)], [record(f"s{number}", size - 1)])
        number += size
    log.end(runner_pb.Outcome(canceled=runner_pb.Outcome.Canceled()))
    return log


def drain(log: AttemptLog, max_bytes: int) -> list[runner_pb.EventBatch]:
    batches = []
    while (batch := log.take(max_bytes)) is not None:
        batches.append(batch)
    return batches


def test_an_encoded_list_is_what_protobuf_writes() -> None:
    events = [delta("a"), delta("b" * 300), pb.TaskEvent()]
    assert encode(events) == pb.EventList(events=events).SerializeToString()


@pytest.mark.parametrize("size", [names.MAX_EVENT_BYTES + 1, 10 * names.MAX_EVENT_BYTES])
def test_an_event_above_256_kib_is_refused(size: int) -> None:
    with pytest.raises(AgentError) as refused:
        encode([delta("x" * size)])
    assert refused.value.reason == "EVENT_TOO_LARGE"


def test_events_of_one_step_that_fit_into_no_batch_are_refused() -> None:
    with pytest.raises(AgentError) as refused:
        encode([delta("x" * 250_000) for _ in range(4)])
    assert refused.value.reason == "STEP_TOO_LARGE"


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(1, 4), min_size=1, max_size=8), st.integers(0, 60), st.integers())
def test_whatever_is_acknowledged_the_rest_is_sent_again_whole_and_in_order(
    sizes: list[int], max_bytes: int, seed: int
) -> None:
    log = asyncio.run(filled(sizes))
    total = sum(sizes)
    boundaries = [sum(sizes[:n]) for n in range(len(sizes) + 1)]
    dice = random.Random(seed)
    stored: list[str] = []
    acked = 0
    ended = False
    while not log.confirmed:
        for batch in drain(log, max_bytes)[: dice.randint(0, 3)]:
            assert batch.first_offset == acked
            stored.extend(texts(batch))
            assert [step.event_index + batch.first_offset + 1 for step in batch.steps] == [
                end for end in boundaries if acked < end <= acked + len(texts(batch))
            ]
            acked += len(texts(batch))
            assert acked in boundaries, "a group was split"
            ended = batch.HasField("outcome")
            acked += ended
        log.rewind(acked)
        assert log.acked_offset == acked
    assert ended
    assert stored == [str(number) for number in range(total)]


async def test_the_outcome_is_one_offset_after_the_last_event() -> None:
    log = await filled([2])
    (batch,) = drain(log, 1 << 20)
    assert (batch.first_offset, texts(batch), batch.HasField("outcome")) == (0, ["0", "1"], True)
    log.ack(2)
    assert not log.confirmed
    log.ack(3)
    assert log.confirmed


async def test_an_acknowledgement_inside_a_group_keeps_the_group() -> None:
    log = await filled([3])
    drain(log, 1 << 20)
    log.rewind(2)
    (batch,) = drain(log, 1 << 20)
    assert (batch.first_offset, len(texts(batch))) == (0, 3)


async def test_a_batch_takes_at_least_one_group_and_no_more_bytes_than_asked() -> None:
    log = AttemptLog("t", 1)
    for _ in range(4):
        await log.say([delta("x" * 1000)])
    assert [len(texts(batch)) for batch in drain(log, 2500)] == [2, 2]
    log.rewind(0)
    assert [len(texts(batch)) for batch in drain(log, 1)] == [1, 1, 1, 1]


async def test_results_of_steps_count_as_bytes_of_a_batch() -> None:
    log = AttemptLog("t", 1)
    for number in range(4):
        big = runner_pb.StepRecord(key=str(number), result=bytes(1000))
        await log.say([delta("x")], [big])
    assert [len(batch.steps) for batch in drain(log, 1500)] == [2, 2]


async def test_whoever_speaks_waits_while_a_mebibyte_is_unconfirmed_and_goes_on_in_turn() -> None:
    log = AttemptLog("t", 1)
    piece = "x" * 200_000
    said = 0
    while said * len(piece) < MAX_UNACKED_BYTES:
        await log.say([delta(piece)])
        said += 1
    first = asyncio.create_task(log.say([delta("first")]))
    await asyncio.sleep(0)
    assert not first.done()
    drain(log, 1 << 20)
    log.ack(said)
    # There is room, but the one that waits has not run yet: nobody may overtake it.
    second = asyncio.create_task(log.say([delta("second")], [record("s", 0)]))
    await asyncio.gather(first, second)
    (batch,) = drain(log, 1 << 20)
    assert texts(batch) == ["first", "second"]


async def test_a_speaker_that_was_let_in_does_not_let_in_all_others_at_once() -> None:
    log = AttemptLog("t", 1)
    piece = "x" * 200_000
    speakers = [asyncio.create_task(log.say([delta(piece)])) for _ in range(12)]
    await asyncio.sleep(0)
    waiting = [not speaker.done() for speaker in speakers]
    assert sum(waiting) == 6
    drain(log, 1 << 21)
    log.ack(1)
    for _ in range(10):
        await asyncio.sleep(0)
    assert sum(not speaker.done() for speaker in speakers) == 5
    for speaker in speakers:
        speaker.cancel()
    await asyncio.gather(*speakers, return_exceptions=True)


async def test_nothing_is_said_after_the_outcome() -> None:
    log = await filled([1])
    with pytest.raises(AgentError) as refused:
        await log.say([delta("late")])
    assert refused.value.reason == "ATTEMPT_ENDED"


async def test_what_was_said_is_settled_when_all_of_it_is_acknowledged_and_no_sooner() -> None:
    log = AttemptLog("t", 1)
    await log.settled()
    await log.say([delta("a"), delta("b")])
    first = asyncio.create_task(log.settled())
    await asyncio.sleep(0)
    await log.say([delta("c")])
    second = asyncio.create_task(log.settled())
    given_up = asyncio.create_task(log.settled())
    await asyncio.sleep(0)
    given_up.cancel()
    log.ack(1)
    await asyncio.sleep(0)
    assert not first.done()
    log.ack(2)
    await first
    assert not second.done()
    log.ack(3)
    await second


async def test_what_a_new_router_finds_stored_settles_too() -> None:
    log = AttemptLog("t", 1)
    await log.say([delta("a")])
    drain(log, 1 << 20)
    waiting = asyncio.create_task(log.settled())
    await asyncio.sleep(0)
    log.rewind(0)
    await asyncio.sleep(0)
    assert not waiting.done()
    log.rewind(1)
    await waiting
