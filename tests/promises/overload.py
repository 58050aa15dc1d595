"""`python -m tests.promises.overload`: R9 and R10 beside their anchors, on a mesh of this machine.

R9: the mesh at the load where it does most (its peak), then at three times that rate, whatever becomes of it.
R10: a tenant with one task at a time, alone, then beside another that submits at ten times its own limit.
"""

import asyncio
import hashlib
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from agentmesh.client import AsyncClient
from tests.bench.load import percentile
from tests.support.mesh import Mesh
from tests.support.open_load import OpenLoad

Row = tuple[str, str, str, bool]
"""What, the figure with its anchor, the bound, and whether it holds."""

_LOADS = (64, 128, 256)
_LOAD_S = 4.0
_OVERLOAD_S = 10.0
_SETTLE_S = 3.0
_PROBES_S = 8.0
_NOISY_PER_S = 50
_KEYS = {tenant: f"key-of-{tenant}" for tenant in ("plain", "noisy", "victim")}


async def measure() -> list[Row]:
    """Start a mesh, time both promises on it, and return a row for each figure."""
    keys = [{"sha256": hashlib.sha256(key.encode()).hexdigest(), "tenant": tenant} for tenant, key in _KEYS.items()]
    limits = [{"tenant": tenant, "submits_per_s": _NOISY_PER_S} for tenant in ("noisy", "victim")]
    environment = {
        "AGENTMESH_SECURITY__AUTHENTICATION": "true",
        "AGENTMESH_SECURITY__AUTHORIZATION": "true",
        "AGENTMESH_SECURITY__RATE_LIMITING": "true",
        "AGENTMESH_SECURITY__API_KEYS": json.dumps(keys),
        "AGENTMESH_LIMITS__TENANTS": json.dumps(limits),
    }
    with tempfile.TemporaryDirectory(prefix="agentmesh-overload-") as folder:
        mesh = Mesh(Path(folder), environment=environment)
        await asyncio.to_thread(mesh.start)
        try:
            return [*await _overload(mesh.router), *await _fairness(mesh.router)]
        finally:
            await asyncio.to_thread(mesh.close)


async def _overload(address: str) -> list[Row]:
    peak, peak_accepted, peak_ended = 0.0, [0.0], [0.0]
    async with OpenLoad(address, token=_KEYS["plain"]) as load:
        await load.keep(32, 1)
        for in_flight in _LOADS:
            await load.finish(60)
            load.forget()
            await load.keep(in_flight, _LOAD_S)
            if (rate := len(load.completed) / _LOAD_S) > peak:
                peak, peak_accepted, peak_ended = rate, list(load.accepted), list(load.completed)
        await load.finish(60)
        load.forget()
        await load.offer(3 * peak, _SETTLE_S)  # how it gets there is not what is promised
        load.forget()
        before = load.unanswered
        await load.offer(3 * peak, _OVERLOAD_S)
        good, offered = len(load.completed) / _OVERLOAD_S, (load.offered - before) / _OVERLOAD_S
        await load.finish(120)
    refused = [refusal.after_s for refusal in load.refused]
    hinted = sum(refusal.error.retry_after_s is not None for refusal in load.refused)
    return [
        _row("R9 goodput at 3x", good, "/s", peak, good / peak, 0.8, at_least=True),
        _ratio_of_p99("R9 p99 to acceptance", load.accepted, peak_accepted, 2.0),
        _ratio_of_p99("R9 p99 to the end", load.completed, peak_ended, 2.0),
        (
            "R9 refusals",
            f"{len(refused)} of {offered * _OVERLOAD_S:.0f}, {hinted} with a hint, p99 {_p99_ms(refused):.1f} ms",
            "p99 at most 50 ms, each with a hint",
            bool(refused) and hinted == len(refused) and _p99_ms(refused) <= 50,
        ),
    ]


async def _fairness(address: str) -> list[Row]:
    async with AsyncClient(address, token=_KEYS["victim"]) as victim:
        alone, refused_alone = await _one_at_a_time(victim)
        async with OpenLoad(address, token=_KEYS["noisy"], streams=2) as noisy:
            flood = asyncio.create_task(noisy.offer(10 * _NOISY_PER_S, _PROBES_S + 1))
            beside, refused_beside = await _one_at_a_time(victim)
            await flood
            await noisy.finish(60)
    refused = refused_alone + refused_beside
    return [
        _ratio_of_p99("R10 victim's p99 to the end", beside, alone, 1.5),
        (
            "R10 victim's refusals",
            f"{refused} (of the noisy tenant: {len(noisy.refused)} of {noisy.offered})",
            "0",
            refused == 0 and bool(noisy.refused),
        ),
    ]


async def _one_at_a_time(client: AsyncClient) -> tuple[list[float], int]:
    """Run tasks at half the tenant's rate; return the seconds of each, and how many were refused."""
    times: list[float] = []
    refused = 0
    end = time.perf_counter() + _PROBES_S
    while time.perf_counter() < end:
        began = time.perf_counter()
        result = await client.run("echo", "hi", parameters={"count": 1})
        times.append(time.perf_counter() - began)
        refused += not result.completed
        await asyncio.sleep(2 / _NOISY_PER_S)
    return times, refused


def _ratio_of_p99(what: str, values: Sequence[float], anchor: Sequence[float], bound: float) -> Row:
    value, beside = _p99_ms(values), _p99_ms(anchor)
    return _row(what, value, " ms", beside, value / beside, bound, at_least=False)


def _row(what: str, value: float, unit: str, anchor: float, ratio: float, bound: float, *, at_least: bool) -> Row:
    holds = ratio >= bound if at_least else ratio <= bound
    words = "at least" if at_least else "at most"
    return what, f"{value:,.1f}{unit} beside {anchor:,.1f}{unit}: {ratio:.2f}", f"{words} {bound}", holds


def _p99_ms(values: Sequence[float]) -> float:
    return percentile(values, 99) * 1000 if values else float("inf")


def main() -> None:
    """Print the figures; exit with 1 if one is missed."""
    rows = asyncio.run(measure())
    for what, figure, bound, holds in rows:
        print(f"{'pass' if holds else 'FAIL'} {what}: {figure} ({bound})")
    sys.exit(not all(row[3] for row in rows))


if __name__ == "__main__":
    main()
