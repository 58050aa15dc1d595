"""A mesh whose services speak TLS with each other and with clients, and demand certificates of each other."""

import json
import os
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest

from agentmesh.client import Client
from tests.support.certificates import Authority, Certificate
from tests.support.mesh import Mesh
from tests.support.ports import free_ports

ROLES = ("router", "runner", "llm", "storage", "gateway")


class Encrypted:
    """The mesh, who signs for it, and the ports of its probes."""

    def __init__(self, folder: Path) -> None:
        self.authority = Authority(folder)
        self.certificate = self.authority.sign("localhost", "127.0.0.1")
        self.client = self.authority.sign("client", name="client")
        first = free_ports(len(ROLES))
        self.health = {role: first + index for index, role in enumerate(ROLES)}
        self.variables: Mapping[str, str] = {
            "AGENTMESH_SERVICES__TLS__CERT": str(self.certificate.cert),
            "AGENTMESH_SERVICES__TLS__KEY": str(self.certificate.key),
            "AGENTMESH_SERVICES__TLS__CA": str(self.authority.ca),
            "AGENTMESH_SERVICES__TLS__VERIFY_CLIENTS": "true",
            **{f"AGENTMESH_SERVICES__{role.upper()}__HEALTH_PORT": str(port) for role, port in self.health.items()},
        }
        self.mesh = Mesh(folder / "data", environment=self.variables)

    def command(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        """Run a command of agentmesh with the configuration of the mesh."""
        where = ["--data-dir", str(self.mesh.data_dir), "--ports-from", str(self.mesh.first_port)]
        return subprocess.run(
            [sys.executable, "-m", "agentmesh", *arguments, *where],
            env={**os.environ, **self.variables},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )


@pytest.fixture(scope="module")
def encrypted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Encrypted]:
    encrypted = Encrypted(tmp_path_factory.mktemp("tls"))
    with encrypted.mesh:
        yield encrypted


def test_tasks_and_models_work_over_tls_all_the_way(encrypted: Encrypted) -> None:
    with Client(encrypted.mesh.router, ca=encrypted.authority.ca) as client:
        result = client.run("content_generation", "rivers")
    assert result.text
    trusting = ssl.create_default_context(cafile=str(encrypted.authority.ca))
    gateway = encrypted.mesh.address("gateway")
    body = {"model": "offline", "messages": [{"role": "user", "content": "Rivers carry water."}]}
    with httpx.Client(base_url=f"https://{gateway}", verify=trusting, timeout=10) as http:
        assert http.post("/v1/chat/completions", json=body).status_code == 200
        checks = http.get("/health/detailed").json()["checks"]
    assert {name: check["status"] for name, check in checks.items()} == dict.fromkeys(ROLES[:4], "healthy")


def test_the_operators_commands_find_the_mesh_over_tls(encrypted: Encrypted) -> None:
    ready = encrypted.command("health", "--json")
    assert (ready.returncode, json.loads(ready.stdout)) == (0, dict.fromkeys(ROLES, "SERVING"))
    assert encrypted.command("doctor").returncode == 0
    listed = encrypted.command("keys", "list")
    assert listed.returncode == 0, listed.stderr


def test_the_python_client_takes_the_authority_from_its_environment(
    encrypted: Encrypted, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AGENTMESH_CA", str(encrypted.authority.ca))
    with Client(encrypted.mesh.router) as client:
        assert client.run("echo", "hello").text == "hello"


def test_a_file_of_tls_that_is_not_there_is_named_with_its_setting(encrypted: Encrypted) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "agentmesh", "serve", "llm", "--port", "0"],
        env={**os.environ, **encrypted.variables, "AGENTMESH_SERVICES__TLS__CA": "/nowhere/ca.crt"},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 1
    assert "error: services.tls.ca: /nowhere/ca.crt can't be read" in done.stderr


@pytest.mark.parametrize("ca", ["file", "system"])
def test_the_command_trusts_a_file_or_the_authorities_of_the_system(encrypted: Encrypted, ca: str) -> None:
    file = str(encrypted.authority.ca)
    options = ["--address", encrypted.mesh.router, "--ca", file if ca == "file" else ca]
    done = subprocess.run(
        [sys.executable, "-m", "agentmesh", "run", "echo", "hello", *options],
        env={**os.environ, "GRPC_DEFAULT_SSL_ROOTS_FILE_PATH": file},  # what gRPC takes for the system's
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, "hello" in done.stdout) == (0, True), done.stderr


@pytest.mark.parametrize("role", ["runner", "llm", "storage"])
def test_an_internal_service_lets_nobody_in_without_a_certificate_of_the_mesh(encrypted: Encrypted, role: str) -> None:
    stranger = Authority(encrypted.mesh.data_dir)
    assert not _connects(encrypted, role, None)
    assert not _connects(encrypted, role, stranger.sign("localhost", name="stranger"))
    assert _connects(encrypted, role, encrypted.certificate)


def test_clients_from_outside_need_no_certificate(encrypted: Encrypted) -> None:
    assert _connects(encrypted, "router", None)


@pytest.mark.parametrize("role", ROLES)
def test_probes_without_tls_are_answered_on_the_health_port_and_nothing_else_is(
    encrypted: Encrypted, role: str
) -> None:
    from grpc_health.v1 import health_pb2, health_pb2_grpc

    with grpc.insecure_channel(f"127.0.0.1:{encrypted.health[role]}") as channel:
        stub: Any = health_pb2_grpc.HealthStub(channel)
        for name in ("", "live"):
            answer = stub.Check(health_pb2.HealthCheckRequest(service=name), timeout=10)
            assert answer.status == health_pb2.HealthCheckResponse.SERVING
        listed = stub.List(health_pb2.HealthListRequest(), timeout=10).statuses
        assert {"", "live"} <= set(listed)
        other = channel.unary_unary("/agentmesh.api.task.v1.TaskService/GetTask")
        with pytest.raises(grpc.RpcError) as refused:
            other(b"", timeout=10)
        assert refused.value.code() is grpc.StatusCode.UNIMPLEMENTED


@pytest.mark.parametrize("role", ["router", "llm", "gateway"])
def test_a_new_certificate_is_shown_without_a_restart_and_a_wrong_one_never(encrypted: Encrypted, role: str) -> None:
    tls, pid = encrypted.certificate, encrypted.mesh.pid_of(role)
    before = ssl.PEM_cert_to_DER_cert(tls.cert.read_text())
    _until(lambda: _shown(encrypted, role) == before)  # the test before this one may have changed it just now
    other = encrypted.authority.sign("localhost", "127.0.0.1", name="other")
    kept = tls.key.read_bytes()
    tls.key.write_bytes(other.key.read_bytes())  # the certificate is still the old one
    assert _shown(encrypted, role) == before
    tls.key.write_bytes(kept)
    encrypted.authority.sign("localhost", "127.0.0.1")
    _until(lambda: _shown(encrypted, role) != before)
    assert encrypted.mesh.pid_of(role) == pid
    assert encrypted.mesh.restarts(role) == 0


def _until(holds: Callable[[], bool]) -> None:
    end = time.monotonic() + 20
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.05)


def _shown(encrypted: Encrypted, role: str) -> bytes:
    """Return the certificate that a service shows."""
    context = ssl.create_default_context(cafile=str(encrypted.authority.ca))
    context.load_cert_chain(encrypted.client.cert, encrypted.client.key)
    context.set_alpn_protocols(["http/1.1"] if role == "gateway" else ["h2"])
    host, _, port = encrypted.mesh.address(role).rpartition(":")
    with (
        socket.create_connection((host, int(port)), timeout=10) as raw,
        context.wrap_socket(raw, server_hostname="localhost") as secure,
    ):
        shown = secure.getpeercert(binary_form=True)
    assert shown is not None
    return shown


def _connects(encrypted: Encrypted, role: str, shown: Certificate | None) -> bool:
    pems = (shown.key.read_bytes(), shown.cert.read_bytes()) if shown else (None, None)
    credentials = grpc.ssl_channel_credentials(encrypted.authority.ca.read_bytes(), *pems)
    with grpc.secure_channel(encrypted.mesh.address(role), credentials) as channel:
        try:
            # TLS 1.3 tells a client that it was not let in only after the handshake: when it calls.
            channel.unary_unary("/grpc.health.v1.Health/Check")(b"", timeout=5)
        except grpc.RpcError as error:
            if error.code() is not grpc.StatusCode.UNAVAILABLE:
                raise
            return False
    return True
