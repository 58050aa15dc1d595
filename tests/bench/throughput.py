"""Rows B1 to B4 and B8: how many tasks a second, with every answer checked after the clock has stopped."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta

from agentmesh.api.task.v1 import events_pb2, task_pb2
from agentmesh.client import Result
from tests.bench.anchors import EVENTS_PER_STREAM
from tests.bench.figures import Sample
from tests.bench.load import Loaded, keep_in_flight
from tests.bench.proof import PROMPT, WrongAnswer, check_all
from tests.bench.target import Anchor, Target, beside

_PAGE = 1000
_FAR = timedelta(days=365)

Run = Callable[[], Awaitable[Result]]


async def lane(target: Target, row: str) -> Mapping[str, Sample]:
    """Rows B1 and B3: tasks of one event, all over one RunTasks call."""
    samples = {}
    async with target.client.lane() as lane:
        for in_flight in (32, 256):
            figure, [anchor] = await _timed(
                target, [target.anchors.unary], lambda: lane.run("echo", PROMPT), in_flight, messages=1
            )
            samples[f"{row}/{in_flight}"] = Sample(figure, anchor)
    return samples


async def stream(target: Target, row: str) -> Mapping[str, Sample]:
    """Row B2: tasks of one event, a StreamTask call each."""
    anchors = [target.anchors.unary, target.anchors.pairs]
    figure, [unary, pairs] = await _timed(target, anchors, lambda: target.client.run("echo", PROMPT), 32, messages=1)
    return {f"{row}/unary": Sample(figure, unary), f"{row}/pairs": Sample(figure, pairs)}


async def many_events(target: Target, row: str) -> Mapping[str, Sample]:
    """Row B4: tasks of 50 events, which are all that is counted of them."""
    count = {"count": EVENTS_PER_STREAM}
    anchors = [target.anchors.events]
    async with target.client.lane() as lane:
        over_lane, [beside_lane] = await _timed(
            target, anchors, lambda: lane.run("echo", PROMPT, parameters=count), 16, messages=EVENTS_PER_STREAM
        )
    alone, [beside_alone] = await _timed(
        target, anchors, lambda: target.client.run("echo", PROMPT, parameters=count), 16, messages=EVENTS_PER_STREAM
    )
    return {
        f"{row}/run": Sample(over_lane * EVENTS_PER_STREAM, beside_lane),
        f"{row}/stream": Sample(alone * EVENTS_PER_STREAM, beside_alone),
    }


async def accept(target: Target, row: str) -> Mapping[str, Sample]:
    """Row B8: tasks that are accepted for next year, so that nothing runs."""
    start_time = datetime.now(UTC) + _FAR

    async def load(seconds: float) -> Loaded[task_pb2.Task]:
        return await keep_in_flight(lambda: target.client.submit("echo", PROMPT, start_time=start_time), 32, seconds)

    loaded, [anchor] = await beside(target, [target.anchors.unary], load)
    await _check_accepted(target, loaded.answers)
    return {f"{row}/accept": Sample(loaded.per_second, anchor)}


async def _timed(
    target: Target, anchors: Sequence[Anchor], run: Run, in_flight: int, *, messages: int
) -> tuple[float, list[float]]:
    """Return tasks per second, and what each anchor did per second beside them."""

    async def load(seconds: float) -> Loaded[Result]:
        return await keep_in_flight(run, in_flight, seconds)

    loaded, beside_it = await beside(target, anchors, load)
    await check_all(target.client, loaded.answers, messages)
    return loaded.per_second, beside_it


async def _check_accepted(target: Target, tasks: list[task_pb2.Task]) -> None:
    """Raise WrongAnswer unless each task is its own, waits, and is in the store."""
    accepted = {task.id for task in tasks}
    if len(accepted) != len(tasks):
        raise WrongAnswer("two submits were answered with the same task")
    waits = events_pb2.TASK_STATE_SUBMITTED
    if any(task.state != waits for task in tasks):
        raise WrongAnswer("a task that starts next year doesn't wait")
    token = ""
    while True:
        page = await target.client.list(agent="echo", states=[waits], page_size=_PAGE, page_token=token)
        accepted -= {task.id for task in page.tasks}
        token = page.next_page_token
        if not accepted:
            return
        if not token:
            raise WrongAnswer(f"{len(accepted)} of {len(tasks)} accepted tasks are not in the store")
