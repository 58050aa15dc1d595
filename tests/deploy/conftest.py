"""A mesh with two routers and two gateways that asks for credentials, for what stands in front of it."""

import asyncio
import hashlib
import json
import shutil
import socket
import ssl
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509

from tests.support.certificates import Authority
from tests.support.fleet import Fleet
from tests.support.ports import free_ports, give_back

AGENTS = Path(__file__).parents[1] / "support" / "agents_for_tests.py"
KEYS = {"acme": "a-key-of-acme", "globex": "a-key-of-globex"}


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """Who signs the certificates of these tests."""
    return Authority(tmp_path_factory.mktemp("ca"))


def issue(authority: Authority, folder: Path, *names: str) -> int:
    """Put tls.crt, tls.key and ca.crt for these names into a folder, and return the certificate's serial number.

    Files that are there are replaced by renaming, as Kubernetes and certbot do.
    """
    signed = authority.sign(*names, name=f"issued-{folder.name}")
    shutil.copy(authority.ca, folder / "ca.crt")
    serial = x509.load_pem_x509_certificate(signed.cert.read_bytes()).serial_number
    shutil.move(signed.key, folder / "tls.key")
    shutil.move(signed.cert, folder / "tls.crt")
    return serial


@pytest.fixture(scope="session")
def tls(authority: Authority, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as it is mounted at /etc/agentmesh/tls."""
    folder = tmp_path_factory.mktemp("tls")
    issue(authority, folder, "localhost", "127.0.0.1")
    return folder


@pytest.fixture(scope="session")
def provider_url() -> Iterator[str]:
    """Where tests may put a provider of models; its model `part:4` stops after four pieces until it is let go."""
    port = free_ports(1)
    yield f"http://127.0.0.1:{port}/v1"
    give_back(port, 1)


@pytest.fixture(scope="session")
def fleet(provider_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """Two routers and two gateways; clients need a key. A test that breaks something asks for `healed` as well."""
    digests = [{"sha256": hashlib.sha256(key.encode()).hexdigest(), "tenant": name} for name, key in KEYS.items()]
    settings = {
        "AGENTMESH_SECURITY__AUTHENTICATION": "true",
        "AGENTMESH_SECURITY__AUTHORIZATION": "true",
        "AGENTMESH_SECURITY__API_KEYS": json.dumps(digests),
        "AGENTMESH_RUNNER__HOSTS": "1",
        "AGENTMESH_RUNNER__AGENTS": str(AGENTS),
        "AGENTMESH_LLM__PROVIDERS": json.dumps([{"name": "fake", "base_url": provider_url, "models": ["part:4"]}]),
        # TLS ends in front of it.
        "AGENTMESH_SERVICES__TLS__IN_FRONT": "true",
    }
    with Fleet(tmp_path_factory.mktemp("fleet"), routers=2, gateways=2, settings=settings) as started:
        yield started


@pytest.fixture
async def healed(fleet: Fleet) -> AsyncIterator[None]:
    """Whole again after the test."""
    yield
    await asyncio.to_thread(fleet.heal)
    await asyncio.to_thread(fleet.wait_serving)


def members(fleet: Fleet, role: str) -> list[str]:
    """Return the addresses of all members of a role."""
    return [fleet.address(name) for name in fleet.names_of(role)]


def bearer(tenant: str = "acme") -> dict[str, Any]:
    """Return the header that shows a tenant's key."""
    return {"authorization": f"Bearer {KEYS[tenant]}"}


def trusting(tls: Path) -> ssl.SSLContext:
    """Return what makes a client of HTTP trust the certificates of these tests."""
    return ssl.create_default_context(cafile=tls / "ca.crt")


def handshake(port: int, tls: Path, *, version: ssl.TLSVersion | None = None, alpn: str = "h2") -> ssl.SSLSocket:
    """Connect by TLS, with one version only if it is given."""
    context = trusting(tls)
    context.set_alpn_protocols([alpn])
    if version is not None:
        context.minimum_version, context.maximum_version = ssl.TLSVersion.MINIMUM_SUPPORTED, version
        context.set_ciphers("ALL:@SECLEVEL=0")
    raw = socket.create_connection(("127.0.0.1", port), timeout=10)
    return context.wrap_socket(raw, server_hostname="localhost")
