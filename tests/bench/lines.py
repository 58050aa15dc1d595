"""Which lines the table has, and which floor and goal each is held against."""

from dataclasses import dataclass
from typing import Literal

UNARY, EVENTS, PAIRS, IDLE, START, MEMORY = "A1", "A2", "A3", "A4", "A5", "A6"
ONE_CORE, ASKED, BEFORE = "A7", "A8", "A9"

ANCHORS = {
    UNARY: "raw grpc.aio unary echo of 50 bytes, 32 in flight, calls/s",
    EVENTS: "raw grpc.aio server streams of 50 messages of 50 bytes, one event each, 16 in flight, events/s",
    PAIRS: "raw grpc.aio server streams of two messages, 32 in flight, streams/s",
    IDLE: "as A1, one call at a time, p50 in ms",
    START: "the anchors' server (one bare grpc.aio process), seconds from its start until it serves",
    MEMORY: "the anchors' server, resident memory (RSS) before its first call, MiB",
    ONE_CORE: "as A1, the server on one core and the client on the other",
    ASKED: "requests that were made",
    BEFORE: "the same process after a tenth as many requests, MiB",
}

TWO_ROUTERS = "the task's events go through one router, the watcher is on the other; the commit is inside the time"
NOTES = (TWO_ROUTERS,)
DESIGN_IDLE_MS = 0.28
"""What an echo took, one at a time, where the design's times were measured: a cached answer did, at an echo's cost."""
DEAD_SINKS = "llm-proxy, resident memory after 200,000 mixed requests, log unread, Redis gone"


@dataclass(frozen=True, slots=True)
class Line:
    """One line of the table. Floor and goal hold for the ratio to the anchor, or for the figure itself.

    `anchor` is a key of ANCHORS. Those of a time, which the design gives in milliseconds, are multiples of an echo, as
    a machine's speed is in it (docs/adr/0017).
    """

    key: str
    what: str
    unit: str
    anchor: str
    floor: float
    goal: float
    judged: Literal["ratio", "figure"] = "ratio"
    better: Literal["higher", "lower"] = "higher"
    note: str = ""

    @property
    def row(self) -> str:
        """The row of the design's table, such as B1."""
        return self.key.partition("/")[0]

    @property
    def floor_ms(self) -> float:
        """The milliseconds that the design names; 0 for what is no time."""
        return self._in_ms(self.floor)

    @property
    def goal_ms(self) -> float:
        """As `floor_ms`."""
        return self._in_ms(self.goal)

    def _in_ms(self, bound: float) -> float:
        return round(bound * DESIGN_IDLE_MS, 6) if self.anchor == IDLE else 0

    def reaches(self, value: float, bound: float) -> bool:
        """Say whether a value is at least as good as a bound."""
        return value >= bound if self.better == "higher" else value <= bound


def _latency(key: str, what: str, floor_ms: float, goal_ms: float, note: str = "") -> Line:
    floor, goal = floor_ms / DESIGN_IDLE_MS, goal_ms / DESIGN_IDLE_MS
    return Line(key, what, "ms", IDLE, floor, goal, "ratio", "lower", note)


LINES = (
    Line("B1/32", "RunTasks, 1 event a task, 32 in flight", "tasks/s", UNARY, 1.0, 1.4),
    Line("B1/256", "RunTasks, 1 event a task, 256 in flight", "tasks/s", UNARY, 1.8, 2.5),
    Line("B2/unary", "StreamTask, 1 event a task, 32 in flight", "tasks/s", UNARY, 0.34, 0.45),
    Line("B2/pairs", "StreamTask, 1 event a task, 32 in flight", "tasks/s", PAIRS, 0.55, 0.75),
    Line("B3/32", "RunTasks, 1 event a task, 32 in flight", "tasks/s", UNARY, 1.0, 1.4),
    Line("B3/256", "RunTasks, 1 event a task, 256 in flight", "tasks/s", UNARY, 1.8, 2.5),
    Line("B4/run", "RunTasks, 50 events a task, 16 in flight", "events/s", EVENTS, 1.8, 2.5),
    Line("B4/stream", "StreamTask, 50 events a task, 16 in flight", "events/s", EVENTS, 1.0, 1.4),
    _latency("B5/submitted-p50", "idle: submit to SUBMITTED, p50", 4, 2.5),
    _latency("B5/submitted-p99", "idle: submit to SUBMITTED, p99", 12, 6),
    _latency("B5/event-p50", "idle: submit to first agent event, p50", 6, 4),
    _latency("B5/event-p99", "idle: submit to first agent event, p99", 15, 9),
    _latency("B6/p99", "said to seen by a watcher on another router, p99", 25, 10, TWO_ROUTERS),
    Line("B7/replay", "replay of a 10,000-event log", "events/s", EVENTS, 200_000, 500_000, "figure"),
    Line("B8/accept", "SubmitTask, accept only, 32 in flight", "tasks/s", UNARY, 0.5, 0.7),
    Line("B9/hits", "llm-proxy, a cached answer, 32 in flight, one core", "calls/s", ONE_CORE, 0.75, 0.9),
    _latency("B9/alone", "llm-proxy, a cached answer, one call at a time, p50", 0.5, 0.35),
    Line("B10/misses", "llm-proxy, through to a provider, 32 in flight, one core", "calls/s", ONE_CORE, 0.36, 0.5),
    _latency("B11/first-p50", "llm-proxy, added time to first token, 8 streams, p50", 2, 1.2),
    _latency("B11/chunk-p50", "llm-proxy, added delay of a chunk, 8 streams, p50", 0.5, 0.25),
    _latency("B11/chunk-p99", "llm-proxy, added delay of a chunk, 8 streams, p99", 2, 0.6),
    Line("B12/chunks", "llm-proxy, relayed chunks, 16 streams, one core", "chunks/s", EVENTS, 12_000, 17_000, "figure"),
    Line("B14/calls", "the same question 200 times at once", "provider calls", ASKED, 1, 1, "figure", "lower"),
    Line("B15/calls", "256 texts to embed at once", "provider calls", ASKED, 8, 4, "figure", "lower"),
    _latency("B15/alone", "what batching adds to a text that is alone, p50", 0.2, 0.1),
    Line("B16/start", "`agentmesh up` to all five SERVING", "s", START, 5, 3, "figure", "lower"),
    Line("B16/memory", "resident memory (RSS) of all five, idle", "MiB", MEMORY, 450, 350, "figure", "lower"),
    Line("B17/memory", DEAD_SINKS, "MiB", BEFORE, 1.10, 1.03, "ratio", "lower"),
)

ROWS = tuple(dict.fromkeys(line.row for line in LINES))
