"""Replicas that come, as with `docker compose up --scale gateway=2`, are found by their name without a restart."""

import asyncio
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from tests.deploy import nginx
from tests.deploy.conftest import trusting
from tests.deploy.envoy import Envoy
from tests.deploy.name_server import NameServer, replicas
from tests.deploy.nginx import Nginx
from tests.support.ports import free_ports, give_back

FIRST, SECOND = "127.0.0.2", "127.0.0.3"

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux has all of 127.0.0.0/8 on loopback")


@pytest.fixture
def port() -> Iterator[int]:
    """A port for replicas."""
    free = free_ports(1)
    yield free
    give_back(free, 1)


@pytest.fixture
def let_go(port: int) -> Iterator[threading.Event]:
    """Two replicas, and what lets their slow answers end."""
    with replicas(port, FIRST, SECOND) as event:
        yield event
        event.set()


@pytest.fixture
def names() -> Iterator[NameServer]:
    """A name server that knows one gateway, and no other name."""
    with NameServer() as server:
        server.addresses["gateway.test"] = [FIRST]
        yield server


async def check(url: str, tls: Path, names: NameServer, let_go: threading.Event) -> None:
    """Scale from one replica to two, and to the other one alone, while the first is in the middle of an answer."""
    async with httpx.AsyncClient(base_url=url, verify=trusting(tls)) as http:

        async def scaled(*replicas: str, until: Callable[[set[str]], bool]) -> None:
            names.addresses["gateway.test"] = list(replicas)
            async with asyncio.timeout(20):
                while not until({(await http.get("/")).text.strip() for _ in range(10)}):
                    await asyncio.sleep(0.1)

        await scaled(FIRST, until={FIRST}.__eq__)
        async with http.stream("GET", "/slow") as slow:
            lines = slow.aiter_lines()
            said = [await anext(lines)]
            # The new one; all answers are its own where only the number of open requests counts.
            await scaled(FIRST, SECOND, until=lambda answers: SECOND in answers)
            await scaled(SECOND, until={SECOND}.__eq__)
            let_go.set()
            said += [line async for line in lines]
        assert said == [FIRST, FIRST]


async def test_nginx_finds_replicas_by_their_name(
    tls: Path, tmp_path: Path, port: int, names: NameServer, let_go: threading.Event
) -> None:
    names.addresses["router.test"] = [FIRST]
    binary = nginx.current(tmp_path)
    where = {"routers": ["router.test:50051"], "gateways": [f"gateway.test:{port}"]}
    with Nginx(binary, tmp_path, tls, **where, dns=f"127.0.0.1:{names.port}") as started:
        await check(started.url, tls, names, let_go)


async def test_envoy_finds_replicas_by_their_name(
    tls: Path, tmp_path: Path, port: int, names: NameServer, let_go: threading.Event
) -> None:
    server = {"socket_address": {"address": "127.0.0.1", "port_value": names.port}}
    resolver = {
        "name": "envoy.network.dns_resolver.cares",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.network.dns_resolver.cares.v3.CaresDnsResolverConfig",
            "resolvers": [server],
            "dns_resolver_options": {"no_default_search_domain": True},
        },
    }
    changed = [
        ("static_resources.clusters.1.typed_dns_resolver_config", resolver),
        ("static_resources.clusters.1.dns_refresh_rate", "1s"),
        ("static_resources.clusters.1.common_lb_config.healthy_panic_threshold.value", 0),
    ]
    where = {"routers": [f"{FIRST}:1"], "gateways": [f"gateway.test:{port}"]}
    with Envoy(tmp_path, tls, **where, changed=changed, healthy=("gateway",)) as started:
        await check(started.url, tls, names, let_go)
