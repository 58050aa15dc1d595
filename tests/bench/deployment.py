"""The meshes that are measured: real processes with every feature on that exists, on SQLite and on PostgreSQL."""

import asyncio
import hashlib
import os
import secrets
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

from tests.bench.anchors import Anchors
from tests.bench.figures import Sample, Setup
from tests.support.fleet import Fleet
from tests.support.mesh import Mesh
from tests.support.postgres import Postgres

SERVICES = ("router", "runner", "llm", "storage", "gateway")
SETTINGS = {"AGENTMESH_RUNNER__SLOTS": "1024"}
"""What differs from the defaults for speed: 256 tasks in flight overlap, so that they need more than 256 slots."""

SQLITE, POSTGRES = "SQLite", "PostgreSQL"
ALONE_ROWS = ("B9", "B10", "B11", "B12", "B14", "B15", "B17")
"""Rows of an llm-proxy alone, whose books are on SQLite but not in the way."""
EMBEDDED_ROWS = ("B3", "B16")
"""Rows that are of the mesh on SQLite; the others are of the one on PostgreSQL."""

BUILT_IN = Setup(
    database="",
    fsync="on",
    features="all so far",
    says=(
        "PostgreSQL: the server from pip on the same machine, fsync and synchronous_commit on, otherwise its defaults; "
        "two routers (the second one idle but for B6), one runner, one storage, one llm-proxy",
        "SQLite: embedded, WAL, synchronous=FULL; in both each commit is fsynced before anybody hears of it",
        "features: authentication (an API key on every client call, a service token between services), signed task "
        "tokens, input validation, admission control, rate limiting (no tenant has a bound), metrics, logs (level "
        "INFO, to files); the llm-proxy alone exports the spans of one trace in ten. Off: spans of the other services, "
        "and TLS, because everything is on loopback",
        "settings that are not the defaults: " + ", ".join(f"{name}={value}" for name, value in SETTINGS.items()),
    ),
)
FOREIGN = Setup(
    database="its own",
    fsync="its own",
    features="its own",
    says=("a mesh that was running already: its database, settings and features are whatever it was started with",),
)


@dataclass(frozen=True, slots=True)
class Deployment:
    """A mesh that serves. `start_s` is 0 for one that was already running."""

    address: str
    token: str
    start_s: float = 0.0
    mesh: Mesh | None = None
    second_address: str = ""
    """Another router of the same mesh, or the same one if there is none."""

    def memory_mib(self) -> float:
        """Return the resident memory (RSS, so that shared pages count in each) of the five and their children."""
        assert self.mesh is not None
        services = [psutil.Process(self.mesh.pid_of(name)) for name in SERVICES]
        processes = [process for service in services for process in (service, *service.children(recursive=True))]
        return sum(process.memory_info().rss for process in processes) / 2**20


@asynccontextmanager
async def started(data_dir: Path) -> AsyncIterator[Deployment]:
    """Start a mesh on SQLite in an empty folder and stop it at the end; raise TimeoutError if it doesn't serve."""
    token, environment = _secured()
    mesh = Mesh(data_dir, environment=environment)
    began = time.perf_counter()
    try:
        await asyncio.to_thread(mesh.start)
        yield Deployment(mesh.router, token, time.perf_counter() - began, mesh)
    finally:
        await asyncio.to_thread(mesh.close)


@asynccontextmanager
async def started_on_postgres(folder: Path) -> AsyncIterator[Deployment]:
    """Start a PostgreSQL server and a mesh of two routers over it, and stop both at the end."""
    token, environment = _secured()
    stack = ExitStack()

    def start() -> Fleet:
        database = stack.enter_context(Postgres()).new_database()
        return stack.enter_context(Fleet(folder, database=database, routers=2, settings=environment))

    try:
        fleet = await asyncio.to_thread(start)
        first, second = fleet.routers
        yield Deployment(first, token, second_address=second)
    finally:
        await asyncio.to_thread(stack.close)


def database_of(row: str) -> str:
    """Return the database that a row is measured on."""
    if row in ALONE_ROWS:
        return "none"
    return SQLITE if row in EMBEDDED_ROWS else POSTGRES


def _secured() -> tuple[str, dict[str, str]]:
    """Return a client's key, and the settings of a mesh that demands it."""
    token = secrets.token_urlsafe(24)
    digest = hashlib.sha256(token.encode()).hexdigest()
    return token, {
        "AGENTMESH_SECURITY__AUTHENTICATION": "true",
        "AGENTMESH_SECURITY__AUTHORIZATION": "true",
        "AGENTMESH_SECURITY__RATE_LIMITING": "true",
        "AGENTMESH_SECURITY__API_KEYS": f'[{{"sha256": "{digest}", "tenant": "bench"}}]',
        "AGENTMESH_MONITORING__METRICS": "true",
        # The defaults, which tests shorten.
        "AGENTMESH_RUNNER__HEARTBEAT_S": "5",
        "AGENTMESH_TASKS__LEASE_TTL_S": "15",
        **SETTINGS,
    }


def running(address: str) -> Deployment:
    """Return a mesh that somebody else started, with the caller's AGENTMESH_TOKEN."""
    return Deployment(address, os.environ.get("AGENTMESH_TOKEN", ""))


async def at_rest(deployment: Deployment, anchors: Anchors, settle_s: float, row: str) -> Mapping[str, Sample]:
    """Row B16: how long the start took, and the memory once the mesh has been idle for `settle_s`."""
    if deployment.mesh is None:
        raise LookupError("needs a mesh that the benchmark starts itself: leave --address out")
    await asyncio.sleep(settle_s)
    return {
        f"{row}/start": Sample(deployment.start_s, anchors.start_s),
        f"{row}/memory": Sample(deployment.memory_mib(), anchors.memory_mib),
    }
