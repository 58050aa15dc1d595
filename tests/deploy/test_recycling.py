"""Gateways whose workers are replaced while requests come through either proxy: none of them is lost."""

import asyncio
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from tests.deploy import nginx
from tests.deploy.conftest import members, trusting
from tests.deploy.envoy import Envoy
from tests.deploy.nginx import Nginx
from tests.support.fleet import Fleet

CLIENTS, REQUESTS, WORKERS = 6, 40, 2


@pytest.fixture(scope="module")
def recycling(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """A mesh with a gateway whose two workers serve 60 requests each."""
    settings = {
        "AGENTMESH_API__WORKERS": str(WORKERS),
        "AGENTMESH_API__MAX_REQUESTS": "60",
        "AGENTMESH_RUNNER__HOSTS": "1",
    }
    with Fleet(tmp_path_factory.mktemp("recycling"), gateways=1, settings=settings) as started:
        yield started


@pytest.mark.parametrize("kind", ["envoy", "nginx"])
async def test_no_request_is_lost_to_a_worker_that_retires(
    kind: str, recycling: Fleet, tls: Path, tmp_path: Path
) -> None:
    where = {"routers": recycling.routers, "gateways": members(recycling, "gateway")}
    proxies: dict[str, Callable[[], Envoy | Nginx]] = {
        "envoy": lambda: Envoy(tmp_path, tls, **where),
        "nginx": lambda: Nginx(nginx.current(tmp_path), tmp_path, tls, **where),
    }
    answers: Counter[int] = Counter()
    with proxies[kind]() as proxy:
        async with httpx.AsyncClient(base_url=proxy.url, verify=trusting(tls), timeout=30) as http:

            async def ask() -> None:
                for _ in range(REQUESTS):
                    # Not repeatable, so that neither proxy may hide a loss; the gateway refuses it by itself.
                    answers[(await http.post("/v1/tasks", json={"nonsense": 1})).status_code] += 1

            await asyncio.gather(*(ask() for _ in range(CLIENTS)))
    assert answers == {400: CLIENTS * REQUESTS}
    retired = recycling.members["gateway-1"].daemon.log.read_text().count("worker_retires")
    assert retired >= WORKERS
