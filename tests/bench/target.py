"""What the rows are measured against: a mesh, the client that ships with it, and the anchors beside it."""

import asyncio
import gc
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from agentmesh.client import AsyncClient
from tests.bench.anchors import Anchors
from tests.bench.load import Loaded

_SETTLE_S = 0.2

T = TypeVar("T")
Anchor = Callable[[float], Awaitable[float]]


@dataclass(frozen=True, slots=True)
class Target:
    """A mesh to measure."""

    client: AsyncClient
    second: AsyncClient
    """Speaks to another router of the mesh, if it has one."""
    anchors: Anchors
    load_s: float
    """How long each load lasts; its anchor lasts as long, half before it and half after it."""
    probes: int
    """Calls that a percentile is taken over."""


async def beside(
    target: Target, anchors: Sequence[Anchor], load: Callable[[float], Awaitable[Loaded[T]]]
) -> tuple[Loaded[T], list[float]]:
    """Time a load for `load_s`, and each anchor for as long: half of it before the load, half of it after.

    A tenth as long runs first, to warm up, and isn't counted. Before the anchors, what was begun may settle.
    """
    await load(target.load_s / 10)
    await settle()
    before = [await anchor(target.load_s / 2) for anchor in anchors]
    loaded = await load(target.load_s)
    await settle()
    after = [await anchor(target.load_s / 2) for anchor in anchors]
    return loaded, [(a + b) / 2 for a, b in zip(before, after, strict=True)]


async def settle() -> None:
    """Let the services finish what they do after a load, and collect this process's garbage while nothing is timed."""
    await asyncio.sleep(_SETTLE_S)
    gc.collect()
