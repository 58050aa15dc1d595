"""The run: each repeat on a mesh of its own, each row beside its anchors, a row that fails beside the others."""

import asyncio
import sys
import tempfile
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path

from agentmesh.client import AsyncClient
from tests.bench import latency, machine, proxy, proxy_memory, proxy_relay, throughput
from tests.bench.anchors import Anchors
from tests.bench.deployment import (
    BUILT_IN,
    EMBEDDED_ROWS,
    FOREIGN,
    Deployment,
    at_rest,
    running,
    started,
    started_on_postgres,
)
from tests.bench.figures import Outcome, Sample
from tests.bench.noise import Noise
from tests.bench.proxy import started_proxy
from tests.bench.target import Target

PROXY_ROWS = (*proxy.ROWS_HERE, *proxy_relay.ROWS_HERE, *proxy_memory.ROWS_HERE)
"""Rows of an llm-proxy alone."""

_ROW_S = 60.0
_LONG_ROW_S = 900.0
_CONTACT_S = 5.0

Measure = Callable[[Target, str], Awaitable[Mapping[str, Sample]]]

# In this order: idle rows before the disk and the database are busy, B8's parked tasks last.
MEASURES: Mapping[str, Measure] = {
    "B5": latency.first_events,
    "B6": latency.second_watcher,
    "B1": throughput.lane,
    "B2": throughput.stream,
    "B3": throughput.lane,
    "B4": throughput.many_events,
    "B7": latency.replay,
    "B8": throughput.accept,
}


@dataclass(frozen=True, slots=True)
class Plan:
    """What to run, and how thoroughly."""

    rows: Sequence[str]
    repeats: int = 3
    load_s: float = 3.0
    probes: int = 400
    settle_s: float = 3.0
    requests: int = 200_000
    """Of row B17."""
    address: str | None = None


async def run(plan: Plan) -> Outcome:
    """Run every row of the plan in each repeat; what fails is in the outcome, and doesn't stop the rest."""
    book = _Book()
    for repeat in range(1, plan.repeats + 1):
        with tempfile.TemporaryDirectory(prefix="agentmesh-bench-") as folder:
            book.facts = book.facts or machine.describe(Path(folder))
            try:
                await _repeat(plan, f"repeat {repeat} of {plan.repeats}", Path(folder), book)
            except (TimeoutError, OSError, ExceptionGroup) as error:
                for row in plan.rows:
                    book.failed(row, error)
                break  # what kept this mesh or the anchors from starting will keep the next
    if book.noise and not plan.address:
        book.facts["noise"] = f"other programs took up to {max(book.noise):.0%} of the CPU time in a repeat"
    setup = FOREIGN if plan.address else BUILT_IN
    return Outcome(plan.rows, plan.repeats, book.samples, book.faults, book.facts, setup)


@dataclass(slots=True)
class _Book:
    """What has been measured so far."""

    samples: dict[str, list[Sample]] = field(default_factory=dict)
    faults: dict[str, str] = field(default_factory=dict)
    facts: dict[str, str] = field(default_factory=dict)
    noise: list[float] = field(default_factory=list)

    def failed(self, row: str, error: BaseException) -> None:
        """Note a row's first fault."""
        if row not in self.faults:
            self.faults[row] = _describe(error)
            _say(f"{row} failed: {self.faults[row]}")


async def _repeat(plan: Plan, title: str, folder: Path, book: _Book) -> None:
    async with Anchors() as anchors:
        rows = _ordered(plan.rows)
        if plan.address is not None:
            await _measure_all(plan, title, rows, running(plan.address), anchors, book)
            return
        # One mesh at a time: two would share the two cores.
        embedded = [row for row in rows if row in EMBEDDED_ROWS]
        if embedded:
            _say("starting the mesh on SQLite")
            async with started(folder / "data") as deployment:
                await _measure_all(plan, title, embedded, deployment, anchors, book)
        alone = [row for row in rows if row in (*proxy.ROWS_HERE, *proxy_relay.ROWS_HERE)]
        if alone:
            _say("starting an llm-proxy alone")
            async with started_proxy(folder / "proxy") as running_alone:
                await _measure_proxy(plan, title, alone, running_alone, anchors, book)
        if "B17" in rows:
            _say(f"{title}: B17")
            await _measure_memory(plan, book)
        others = [row for row in rows if row not in (*EMBEDDED_ROWS, *PROXY_ROWS)]
        if others:
            _say("starting the mesh on PostgreSQL")
            async with started_on_postgres(folder / "fleet") as deployment:
                await _measure_all(plan, title, others, deployment, anchors, book)


async def _measure_all(
    plan: Plan, title: str, rows: Sequence[str], deployment: Deployment, anchors: Anchors, book: _Book
) -> None:
    noise = Noise()
    for row in rows:
        _say(f"{title}: {row}")
        try:
            measured = await _measure(plan, row, deployment, anchors)
        except Exception as error:  # noqa: BLE001 - reported as the row's fault; the run fails in the end
            book.failed(row, error)
            continue
        for key, sample in measured.items():
            book.samples.setdefault(key, []).append(sample)
    book.noise.append(noise.share())


async def _measure_proxy(
    plan: Plan, title: str, rows: Sequence[str], running: proxy.Proxy, anchors: Anchors, book: _Book
) -> None:
    for row in rows:
        _say(f"{title}: {row}")
        try:
            async with asyncio.timeout(_ROW_S):
                rows_of = proxy if row in proxy.ROWS_HERE else proxy_relay
                measured = await rows_of.measure(row, running, anchors, plan.load_s, plan.probes)
        except Exception as error:  # noqa: BLE001 - as above
            book.failed(row, error)
            continue
        for key, sample in measured.items():
            book.samples.setdefault(key, []).append(sample)


async def _measure_memory(plan: Plan, book: _Book) -> None:
    try:
        async with asyncio.timeout(_LONG_ROW_S):
            measured = await proxy_memory.measure(plan.requests)
    except Exception as error:  # noqa: BLE001 - as above
        book.failed("B17", error)
        return
    for key, sample in measured.items():
        book.samples.setdefault(key, []).append(sample)


async def _measure(plan: Plan, row: str, deployment: Deployment, anchors: Anchors) -> Mapping[str, Sample]:
    async with asyncio.timeout(_ROW_S):
        if row == "B16":
            return await at_rest(deployment, anchors, plan.settle_s, row)
        async with AsyncExitStack() as stack:
            addresses = (deployment.address, deployment.second_address or deployment.address)
            client, second = [
                await stack.enter_async_context(
                    AsyncClient(address, token=deployment.token, first_contact_s=_CONTACT_S)
                )
                for address in addresses
            ]
            return await MEASURES[row](Target(client, second, anchors, plan.load_s, plan.probes), row)


def _ordered(rows: Sequence[str]) -> list[str]:
    """Put the idle mesh's memory before everything that fills it."""
    return [row for row in ("B16", *MEASURES, *PROXY_ROWS) if row in rows]


def _describe(error: BaseException) -> str:
    """Return the first cause in one line; a task group wraps what its tasks raised."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    text = str(error) or "took too long" if isinstance(error, TimeoutError) else str(error)
    return " ".join(f"{type(error).__name__}: {text}".split())[:300]


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
