"""Rows B5 to B7: how long one task waits for its events on an idle mesh, and how fast a long log is read again."""

import time
from collections.abc import Mapping

from agentmesh.client import AsyncClient
from tests.bench.figures import Sample
from tests.bench.load import percentile
from tests.bench.proof import PROMPT, WrongAnswer, check
from tests.bench.target import Target, settle

_LOG_EVENTS = 10_000
_PACE_MS = 5.0


async def first_events(target: Target, row: str) -> Mapping[str, Sample]:
    """Row B5: one task at a time through StreamTask; to its SUBMITTED, and to the agent's first event."""
    await settle()
    anchor = await target.anchors.idle_ms(target.probes)
    submitted, first = [], []
    await _one_task(target.client)
    for _ in range(target.probes):
        to_submitted, to_first = await _one_task(target.client)
        submitted.append(to_submitted)
        first.append(to_first)
    return {
        f"{row}/{what}-p{percent}": Sample(percentile(values, percent), anchor)
        for what, values in (("submitted", submitted), ("event", first))
        for percent in (50, 99)
    }


async def second_watcher(target: Target, row: str) -> Mapping[str, Sample]:
    """Row B6: from when the agent said an event until a watcher on another router than the submit's has it.

    The agent's clock counts whole milliseconds, rounded down, so that up to one is added; the commit is inside too.
    """
    await settle()
    anchor = await target.anchors.idle_ms(target.probes)
    task = await target.client.submit("echo", PROMPT, parameters={"count": target.probes, "delay_ms": _PACE_MS})
    lags = []
    async for event in target.second.watch(task.id):
        seen_ms = time.time() * 1000
        if event.name == "message":
            lags.append(seen_ms - event.event.time.ToNanoseconds() / 1e6)
    if len(lags) != target.probes:
        raise WrongAnswer(f"the watcher saw {len(lags)} events instead of {target.probes}")
    check(await target.client.result(task.id), target.probes)
    return {f"{row}/p99": Sample(percentile(lags, 99), anchor)}


async def replay(target: Target, row: str) -> Mapping[str, Sample]:
    """Row B7: a finished log from its first event to its last, again and again, one reader."""
    made = await target.client.run("echo", PROMPT, parameters={"count": _LOG_EVENTS})
    check(made, _LOG_EVENTS)
    events = len(made.events)
    reads: list[float] = []
    await settle()
    before = await target.anchors.events(target.load_s / 2)
    while sum(reads) < target.load_s:
        began = time.perf_counter()
        position = 0
        async for event in target.client.watch(made.task_id):
            position += 1
            if event.sequence != position:
                raise WrongAnswer(f"the replay has event {event.sequence} in place {position}")
        reads.append(time.perf_counter() - began)
        if position != events:
            raise WrongAnswer(f"the replay has {position} events instead of {events}")
    after = await target.anchors.events(target.load_s / 2)
    if (await target.client.result(made.task_id)).events != made.events:
        raise WrongAnswer("the replayed log is not the one that was streamed")
    return {f"{row}/replay": Sample(len(reads) * events / sum(reads), (before + after) / 2)}


async def _one_task(client: AsyncClient) -> tuple[float, float]:
    """Return the milliseconds to SUBMITTED and to the agent's first event; raise WrongAnswer if it didn't complete."""
    began = time.perf_counter()
    submitted_ms = first_ms = 0.0
    names = []
    async for event in client.stream("echo", PROMPT):
        now_ms = (time.perf_counter() - began) * 1000
        names.append(event.name)
        if event.sequence == 1:
            submitted_ms = now_ms
        elif event.name == "message" and not first_ms:
            first_ms = now_ms
    if not submitted_ms or not first_ms or names.count("message") != 1 or not event.is_last:
        raise WrongAnswer(f"a task said {names}")
    return submitted_ms, first_ms
