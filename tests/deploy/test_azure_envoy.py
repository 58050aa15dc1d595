"""The Envoy of deploy/azure ends TLS for HTTP and gRPC in front of a live mesh."""

import ssl
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import grpc
import httpx
import pytest

from agentmesh.client import Client
from tests.deploy.clouds import DEPLOY
from tests.support.certificates import Authority
from tests.support.daemon import Daemon
from tests.support.mesh import Mesh
from tests.support.ports import free_ports, give_back

_CONFIG = DEPLOY / "azure" / "envoy.yaml"


def _envoy() -> str:
    return str(Path(sys.executable).with_name("envoy"))


class Front:
    """Envoy in front of a mesh, both on free ports, with a certificate for localhost."""

    def __init__(self, folder: Path, mesh: Mesh) -> None:
        self.authority = Authority(folder)
        self.authority.sign("localhost", "127.0.0.1")
        self.port = free_ports(1)
        text = _CONFIG.read_text()
        for before, after in (
            ("/etc/envoy/tls", str(folder)),
            ("port_value: 443", f"port_value: {self.port}"),
            ("port_value: 8000", f"port_value: {mesh.address('gateway').rpartition(':')[2]}"),
            ("port_value: 50051", f"port_value: {mesh.router.rpartition(':')[2]}"),
        ):
            assert before in text
            text = text.replace(before, after)
        self.config = folder / "envoy.yaml"
        self.config.write_text(text)
        command = [_envoy(), "--config-path", str(self.config), "--concurrency", "1", "--use-dynamic-base-id"]
        self.daemon = Daemon(command, log=folder / "envoy.log")

    def http(self) -> httpx.Client:
        """Return a client of the public address."""
        context = ssl.create_default_context(cafile=str(self.authority.ca))
        return httpx.Client(base_url=f"https://localhost:{self.port}", verify=context, timeout=10)


@pytest.fixture(scope="module")
def front(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Front]:
    folder = tmp_path_factory.mktemp("azure")
    with Mesh(folder / "data") as mesh:
        front = Front(folder, mesh)
        try:
            front.daemon.start()
            front.daemon.until(lambda: _answers(front), timeout_s=20)
            yield front
        finally:
            front.daemon.kill()
            give_back(front.port, 1)


def _answers(front: Front) -> bool:
    try:
        with front.http() as client:
            return client.get("/health/ready").status_code == 200
    except httpx.TransportError:
        return False


def test_envoy_takes_the_configuration(front: Front) -> None:
    command = [_envoy(), "--mode", "validate", "--config-path", str(front.config), "--use-dynamic-base-id"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 0, done.stderr


def test_tasks_run_over_grpc_and_models_answer_over_http_through_one_port(front: Front) -> None:
    with Client(f"localhost:{front.port}", ca=front.authority.ca) as client:
        assert client.run("echo", "hello").text == "hello"
    body = {"model": "offline", "messages": [{"role": "user", "content": "Rivers carry water."}], "stream": True}
    with front.http() as http:
        answer = http.post("/v1/chat/completions", json=body)
        assert answer.status_code == 200
        assert answer.text.rstrip().endswith("data: [DONE]")


def test_services_that_are_not_public_have_no_way_in(front: Front) -> None:
    credentials = grpc.ssl_channel_credentials(front.authority.ca.read_bytes())
    with grpc.secure_channel(f"localhost:{front.port}", credentials) as channel:
        call = channel.unary_unary("/agentmesh.api.storage.v1.TaskStoreService/Commit")
        with pytest.raises(grpc.RpcError) as refused:
            call(b"", timeout=10)
    assert refused.value.code() in (grpc.StatusCode.UNIMPLEMENTED, grpc.StatusCode.UNAVAILABLE)
