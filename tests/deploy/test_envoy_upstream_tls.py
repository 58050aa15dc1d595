"""The variant of Envoy's configuration for a mesh that speaks TLS within itself, too."""

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from agentmesh.client import AsyncClient
from tests.deploy.conftest import issue, trusting
from tests.deploy.envoy import Envoy
from tests.support.certificates import Authority
from tests.support.mesh import Mesh


@pytest.fixture(scope="module")
def mesh(authority: Authority, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mesh]:
    """A mesh whose services show certificates to each other, and to whoever is in front."""
    tls = tmp_path_factory.mktemp("mesh-tls")
    issue(authority, tls, "router", "gateway", "localhost", "127.0.0.1")
    files = {"CERT": "tls.crt", "KEY": "tls.key", "CA": "ca.crt"}
    settings = {f"AGENTMESH_SERVICES__TLS__{key}": str(tls / file) for key, file in files.items()}
    settings["AGENTMESH_SERVICES__TLS__VERIFY_CLIENTS"] = "true"
    with Mesh(tmp_path_factory.mktemp("mesh"), environment=settings) as started:
        yield started


async def test_calls_to_a_mesh_with_tls_inside_go_through(mesh: Mesh, tls: Path, tmp_path: Path) -> None:
    where = {"routers": [mesh.router], "gateways": [mesh.address("gateway")]}
    with Envoy(tmp_path, tls, **where, file="envoy-tls.yaml") as envoy:
        async with AsyncClient(envoy.address, ca=tls / "ca.crt") as client:
            assert (await client.run("echo", "hello")).text == "hello"
        async with httpx.AsyncClient(base_url=envoy.url, verify=trusting(tls), timeout=30) as http:
            assert (await http.get("/v1/agents")).status_code == 200
            assert (await http.get("/direct/v1/agents")).status_code == 200


async def test_whoever_shows_another_name_is_not_believed(mesh: Mesh, tls: Path, tmp_path: Path) -> None:
    """The certificate is good, but not for the name of a router: Envoy takes none of its words."""
    matched = "common_tls_context.combined_validation_context.default_validation_context.match_typed_subject_alt_names"
    path = f"static_resources.clusters.0.transport_socket.typed_config.{matched}.0.matcher.exact"
    where = {"routers": [mesh.router], "gateways": [mesh.address("gateway")]}
    with Envoy(
        tmp_path, tls, **where, file="envoy-tls.yaml", changed=[(path, "another")], healthy=("gateway",)
    ) as envoy:
        async with httpx.AsyncClient(base_url=envoy.url, verify=trusting(tls), timeout=30) as http:
            assert (await http.get("/direct/v1/agents")).status_code == 503
            assert (await http.get("/v1/agents")).status_code == 200
        stats = dict(line.split(": ") for line in envoy.asked("/stats?filter=fail_verify_san").splitlines())
        assert int(stats["cluster.router.ssl.fail_verify_san"]) > 0
        assert int(stats["cluster.gateway.ssl.fail_verify_san"]) == 0
