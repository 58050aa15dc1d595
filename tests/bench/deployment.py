"""The mesh that is measured: five real processes with every feature on that exists, and what they cost at rest."""

import asyncio
import hashlib
import os
import secrets
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

from tests.bench.anchors import Anchors
from tests.bench.figures import Sample, Setup
from tests.support.mesh import Mesh

SERVICES = ("router", "runner", "llm", "storage", "gateway")
SETTINGS = {"AGENTMESH_RUNNER__SLOTS": "1024"}
"""What differs from the defaults for speed: 256 tasks in flight overlap, so that they need more than 256 slots."""

BUILT_IN = Setup(
    database="SQLite",
    fsync="on",
    features="all so far",
    says=(
        "database: embedded SQLite, WAL, synchronous=FULL: each commit is fsynced before anybody hears of it",
        "features: authentication (an API key on every client call, a service token between services), signed task "
        "tokens, input validation, metrics, logs (level INFO, to files). Not built yet: rate limits, quotas, export of "
        "traces. Off: TLS, because everything is on loopback",
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

    def memory_mib(self) -> float:
        """Return the resident memory (RSS, so that shared pages count in each) of the five and their children."""
        assert self.mesh is not None
        services = [psutil.Process(self.mesh.pid_of(name)) for name in SERVICES]
        processes = [process for service in services for process in (service, *service.children(recursive=True))]
        return sum(process.memory_info().rss for process in processes) / 2**20


@asynccontextmanager
async def started(data_dir: Path) -> AsyncIterator[Deployment]:
    """Start a mesh in an empty folder and stop it at the end; raise TimeoutError if it doesn't serve."""
    token = secrets.token_urlsafe(24)
    digest = hashlib.sha256(token.encode()).hexdigest()
    environment = {
        "AGENTMESH_SECURITY__AUTHENTICATION": "true",
        "AGENTMESH_SECURITY__AUTHORIZATION": "true",
        "AGENTMESH_SECURITY__API_KEYS": f'[{{"sha256": "{digest}", "tenant": "bench"}}]',
        "AGENTMESH_MONITORING__METRICS": "true",
        "AGENTMESH_RUNNER__HEARTBEAT_S": "5",  # the default, which tests shorten
        **SETTINGS,
    }
    mesh = Mesh(data_dir, environment=environment)
    began = time.perf_counter()
    try:
        await asyncio.to_thread(mesh.start)
        yield Deployment(mesh.router, token, time.perf_counter() - began, mesh)
    finally:
        await asyncio.to_thread(mesh.close)


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
