"""`python -m tests.promises.overload`: R9 and R10 beside their anchors, on a mesh of this machine.

R9: the mesh at the load where it does most (its peak), and at three times that rate, whatever becomes of it.
R10: a tenant with one task at a time, alone, and beside another that submits at ten times its own limit.
Each is timed by turns with its anchor, three times: what else the machine does then slows both.
"""

import asyncio
import gc
import hashlib
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from agentmesh.client import AsyncClient
from tests.bench.load import percentile
from tests.support.mesh import Mesh
from tests.support.open_load import OpenLoad

Row = tuple[str, str, str, bool]
"""What, the figure with its anchor, the bound, and whether it holds."""

_LOADS = (64, 128, 256)
_LOAD_S = 4.0
_SETTLE_S = 3.0
_TURNS = 3
_PROBES_S = 6.0
_NOISY_PER_S = 50
_KEYS = {tenant: f"key-of-{tenant}" for tenant in ("plain", "noisy", "victim")}


@dataclass(frozen=True, slots=True)
class Account:
    """What became of `_LOAD_S` of load."""

    rate: float  # tasks ended a second
    offered: int
    accepted: list[float]
    completed: list[float]
    refused: list[float]
    hinted: int

    @classmethod
    def of(cls, load: OpenLoad) -> "Account":
        """Read the account that the load has kept since it was last told to forget."""
        hinted = sum(refusal.error.retry_after_s is not None for refusal in load.refused)
        refused = [refusal.after_s for refusal in load.refused]
        accepted, completed = list(load.accepted), list(load.completed)
        return cls(len(completed) / _LOAD_S, load.offered, accepted, completed, refused, hinted)


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
    peaks: list[Account] = []
    overloads: list[Account] = []
    async with OpenLoad(address, token=_KEYS["plain"]) as load:
        await load.keep(32, 1)
        at_load = {in_flight: await _peak(load, in_flight) for in_flight in _LOADS}
        best = max(at_load, key=lambda in_flight: at_load[in_flight].rate)
        for _ in range(_TURNS):
            peaks.append(await _peak(load, best))
            await load.offer(3 * peaks[-1].rate, _SETTLE_S)  # how it gets there is not what is promised
            load.forget()
            await load.offer(3 * peaks[-1].rate, _LOAD_S)
            overloads.append(Account.of(load))
    goodput = statistics.median(over.rate / peak.rate for over, peak in zip(overloads, peaks, strict=True))
    refused = [after_s for over in overloads for after_s in over.refused]
    hinted = sum(over.hinted for over in overloads)
    return [
        _row("R9 goodput at 3x", _median_rate(overloads), "/s", _median_rate(peaks), goodput, 0.8, at_least=True),
        _ratio_of_p99("R9 p99 to acceptance", *(_all(of, "accepted") for of in (overloads, peaks)), 2.0),
        _ratio_of_p99("R9 p99 to the end", *(_all(of, "completed") for of in (overloads, peaks)), 2.0),
        (
            "R9 refusals",
            f"{len(refused)} of {sum(over.offered for over in overloads)}, {hinted} with a hint, "
            f"p99 {_p99_ms(refused):.1f} ms",
            "p99 at most 50 ms, each with a hint",
            bool(refused) and hinted == len(refused) and _p99_ms(refused) <= 50,
        ),
    ]


async def _peak(load: OpenLoad, in_flight: int) -> Account:
    await load.finish(60)
    load.forget()
    await load.keep(in_flight, _LOAD_S)
    return Account.of(load)


async def _fairness(address: str) -> list[Row]:
    alone: list[float] = []
    beside: list[float] = []
    refused = 0
    async with (
        AsyncClient(address, token=_KEYS["victim"]) as victim,
        OpenLoad(address, token=_KEYS["noisy"], streams=2) as noisy,
    ):
        for _ in range(_TURNS):
            refused += await _one_at_a_time(victim, alone)
            flood = asyncio.create_task(noisy.offer(10 * _NOISY_PER_S, _PROBES_S + 1))
            refused += await _one_at_a_time(victim, beside)
            await flood
            await noisy.finish(60)
    return [
        _ratio_of_p99("R10 victim's p99 to the end", beside, alone, 1.5),
        (
            "R10 victim's refusals",
            f"{refused} (of the noisy tenant: {len(noisy.refused)} of {noisy.offered})",
            "0",
            refused == 0 and bool(noisy.refused),
        ),
    ]


async def _one_at_a_time(client: AsyncClient, times: list[float]) -> int:
    """Run tasks at half the tenant's rate; add the seconds of each, and return how many were refused."""
    refused = 0
    end = time.perf_counter() + _PROBES_S
    while time.perf_counter() < end:
        began = time.perf_counter()
        result = await client.run("echo", "hi", parameters={"count": 1})
        times.append(time.perf_counter() - began)
        refused += not result.completed
        await asyncio.sleep(2 / _NOISY_PER_S)
    return refused


def _ratio_of_p99(what: str, values: Sequence[float], anchor: Sequence[float], bound: float) -> Row:
    value, beside = _p99_ms(values), _p99_ms(anchor)
    return _row(what, value, " ms", beside, value / beside, bound, at_least=False)


def _all(accounts: Sequence[Account], what: str) -> list[float]:
    return [value for account in accounts for value in getattr(account, what)]


def _median_rate(accounts: Sequence[Account]) -> float:
    return statistics.median(account.rate for account in accounts)


def _row(what: str, value: float, unit: str, anchor: float, ratio: float, bound: float, *, at_least: bool) -> Row:
    holds = ratio >= bound if at_least else ratio <= bound
    words = "at least" if at_least else "at most"
    return what, f"{value:,.1f}{unit} beside {anchor:,.1f}{unit}: {ratio:.2f}", f"{words} {bound}", holds


def _p99_ms(values: Sequence[float]) -> float:
    return percentile(values, 99) * 1000 if values else float("inf")


def main() -> None:
    """Print the figures; exit with 1 if one is missed."""
    gc.disable()  # the account of every submit grows by the thousand: walking over it is not the mesh's time
    rows = asyncio.run(measure())
    for what, figure, bound, holds in rows:
        print(f"{'pass' if holds else 'FAIL'} {what}: {figure} ({bound})")
    sys.exit(not all(row[3] for row in rows))


if __name__ == "__main__":
    main()
