"""Rates are counted in Redis; when it is gone, submits go on within a local share."""

import asyncio
import re
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from agentmesh.client import AsyncClient
from agentmesh.kit import names
from tests.support.mesh import Mesh
from tests.support.redis import RedisServer

LIMITS = '{"tenant": "default", "submits_per_s": 5, "burst": 5000}'


@pytest.fixture
def own_redis() -> Iterator[RedisServer]:
    """A Redis that only this test uses, because it is stopped."""
    with RedisServer() as server:
        yield server


def fallbacks(mesh: Mesh) -> float:
    """Return how many submits the router granted from its local share."""
    address = mesh.events[0]["services"]["router"]["metrics"]
    with urllib.request.urlopen(f"http://{address}/metrics", timeout=5) as answer:
        text = answer.read().decode()
    found = re.search(rf"^{names.ROUTER_LIMITER_FALLBACKS_TOTAL} (\S+)$", text, re.MULTILINE)
    return float(found[1]) if found else 0.0


async def test_no_submit_fails_because_redis_is_frozen_gone_or_empty(own_redis: RedisServer, tmp_path: Path) -> None:
    environment = {
        "AGENTMESH_CACHE__BACKEND": "redis",
        "AGENTMESH_CACHE__URL": own_redis.url(),
        "AGENTMESH_SECURITY__RATE_LIMITING": "true",
        "AGENTMESH_LIMITS__DEFAULT": LIMITS,
    }
    with Mesh(tmp_path, environment=environment) as mesh:
        async with AsyncClient(mesh.router) as client:

            async def run_some() -> None:
                runs = (client.run("echo", "hi", parameters={"count": 1}) for _ in range(20))
                assert all(result.completed for result in await asyncio.gather(*runs))

            async with asyncio.timeout(20):
                while own_redis.ask("EXISTS agentmesh:rate:{default}") == ":0":
                    await run_some()
            own_redis.freeze()
            await run_some()
            frozen = fallbacks(mesh)
            assert frozen > 0
            own_redis.thaw()
            own_redis.stop()
            await run_some()
            assert fallbacks(mesh) > frozen
            own_redis.start()
            await run_some()
            own_redis.flush()
            await run_some()
