"""What Kubernetes' gRPC probes hear from each service while it starts, serves and drains; the services speak TLS."""

import contextlib
import os
import socket
import ssl
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from agentmesh.client import Client
from agentmesh.kit import names
from tests.deploy.probing import REFUSED, Diary, probe
from tests.support.certificates import Authority
from tests.support.daemon import Daemon
from tests.support.fault_proxy import FaultProxy
from tests.support.ports import free_ports, give_back

_SILENT = (REFUSED, REFUSED)
_WAITING = ("SERVING", "NOT_SERVING")
_READY = ("SERVING", "SERVING")
_DRAIN_S = 2
# Whoever calls others drains before them, as in a rolling update each does while the others serve.
_ORDER = (names.GATEWAY, names.RUNNER, names.ROUTER, names.LLM, names.STORAGE)
each_role = pytest.mark.parametrize("role", names.ROLES)


class Pods:
    """A process for each service, with ports as in a pod, but on one machine."""

    def __init__(self, folder: Path, database: str) -> None:
        self.authority = Authority(folder)
        self.certificate = self.authority.sign("localhost", "127.0.0.1")
        self.proxy = FaultProxy(database.partition("@")[2].partition("/")[0])
        first = free_ports(3 * len(names.ROLES))
        self.ports = {role: first + 3 * index for index, role in enumerate(names.ROLES)}
        self.diaries = {role: Diary(port + 2) for role, port in self.ports.items()}
        self.codes: dict[str, int] = {}
        self.proxy.__enter__()
        environment = self._environment(folder, database)
        self.daemons = {
            role: Daemon(
                [sys.executable, "-m", "agentmesh", "serve", role, "--data-dir", str(folder / role)],
                log=folder / f"{role}.log",
                environment=environment,
                folder=folder,
            )
            for role in names.ROLES
        }

    def close(self) -> None:
        for daemon in self.daemons.values():
            daemon.kill()
        self.proxy.close()
        give_back(self.ports[names.ROUTER], 3 * len(names.ROLES))

    def channel(self, role: str) -> grpc.Channel:
        """Return a channel to a service's own port, with a certificate of the mesh."""
        pems = (self.certificate.key.read_bytes(), self.certificate.cert.read_bytes())
        credentials = grpc.ssl_channel_credentials(self.authority.ca.read_bytes(), *pems)
        return grpc.secure_channel(f"127.0.0.1:{self.ports[role]}", credentials)

    @contextlib.contextmanager
    def something_open(self, role: str) -> Iterator[None]:
        """Keep a call open at a service, so that its drain lasts."""
        if role == names.GATEWAY:
            context = ssl.create_default_context(cafile=str(self.authority.ca))
            plain = socket.create_connection(("127.0.0.1", self.ports[role]), timeout=30)
            with context.wrap_socket(plain, server_hostname="localhost") as upload:
                upload.sendall(b"POST /v1/artifacts?name=a HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\nabc")
                yield
            return
        with self.channel(role) as channel:
            watched = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(), timeout=60)
            next(iter(watched))
            yield
            watched.cancel()

    def _environment(self, folder: Path, database: str) -> Mapping[str, str]:
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("AGENTMESH_", "OPENAI_", "ANTHROPIC_"))}
        variables = {
            "DATABASE_URL": database.replace(self.proxy.target, self.proxy.address),
            "AGENTMESH_DATABASE__CREATE_TABLES": "true",
            "AGENTMESH_SERVICES__TOKEN": "a-secret-that-only-tests-share",
            "AGENTMESH_SERVICES__TLS__CERT": str(self.certificate.cert),
            "AGENTMESH_SERVICES__TLS__KEY": str(self.certificate.key),
            "AGENTMESH_SERVICES__TLS__CA": str(self.authority.ca),
            "AGENTMESH_SERVICES__TLS__VERIFY_CLIENTS": "true",
            "AGENTMESH_API__WORKERS": "2",
            "AGENTMESH_RUNNER__HOSTS": "1",
            "AGENTMESH_RUNNER__HEARTBEAT_S": "1",
            "AGENTMESH_DRAIN_TIMEOUT_S": str(_DRAIN_S),
        }
        for role, port in self.ports.items():
            for key, offset in (("PORT", 0), ("METRICS_PORT", 1), ("HEALTH_PORT", 2)):
                variables[f"AGENTMESH_SERVICES__{role.upper()}__{key}"] = str(port + offset)
        return kept | variables


@pytest.fixture(scope="module")
def pods(tmp_path_factory: pytest.TempPathFactory, postgres: object) -> Iterator[Pods]:
    """The mesh after its whole life: started without a database, ready, drained one by one."""
    database = postgres.new_database()  # type: ignore[attr-defined]
    pods = Pods(tmp_path_factory.mktemp("pods"), database)
    try:
        with ExitStack() as stack:
            pods.proxy.refuse()
            for role, daemon in pods.daemons.items():
                stack.enter_context(pods.diaries[role].kept())
                daemon.start()
            for role in (names.STORAGE, names.ROUTER, names.GATEWAY):
                pods.diaries[role].wait_for(_WAITING)
            pods.proxy.heal()
            for diary in pods.diaries.values():
                diary.wait_for(_READY)
            with Client(f"localhost:{pods.ports[names.ROUTER]}", ca=pods.authority.ca) as client:
                # Longer than the drain: the runner hands it back, and ends with it unfinished.
                client.submit("echo", "still here", parameters={"count": 200, "delay_ms": 100})
            for role in _ORDER:
                with pods.something_open(role):
                    pods.codes[role] = pods.daemons[role].end(timeout_s=20)
                pods.diaries[role].wait_for(_SILENT)
        yield pods
    finally:
        pods.close()


@each_role
def test_who_waits_for_a_dependency_lives_and_is_not_ready(pods: Pods, role: str) -> None:
    heard = pods.diaries[role].entries
    started = heard[: heard.index(_READY)]
    assert set(started) <= {_SILENT, _WAITING}
    if role in (names.STORAGE, names.ROUTER, names.GATEWAY):
        assert started[-1] == _WAITING


@each_role
def test_who_drains_lives_and_is_not_ready_and_then_ends_in_order(pods: Pods, role: str) -> None:
    heard = pods.diaries[role].entries
    assert heard[-3:] == [_READY, _WAITING, _SILENT]
    assert pods.codes[role] == 0


@each_role
def test_life_is_said_from_start_to_end(pods: Pods, role: str) -> None:
    heard = [live for live, _ in pods.diaries[role].entries]
    spoke = heard[heard.index("SERVING") :]
    assert spoke[-1] == REFUSED
    assert set(spoke[:-1]) == {"SERVING"}


def test_a_probe_without_tls_learns_nothing_at_the_port_of_a_service(pods: Pods) -> None:
    """Which is why there is a port for probes."""
    pods.daemons[names.LLM].start()
    with pods.diaries[names.LLM].kept():
        pods.diaries[names.LLM].wait_for(_READY)
    assert probe(pods.ports[names.LLM], "") in (REFUSED, "DEADLINE_EXCEEDED")
    pods.daemons[names.LLM].end()
