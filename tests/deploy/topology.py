"""The services of the Compose file as processes of this machine: their commands, variables and health checks."""

import os
import re
import signal
import subprocess
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc

from tests.deploy.compose import agentmesh, environment_of, make_secrets, mounts_of, of_the_mesh, read, role_of
from tests.support.daemon import Daemon
from tests.support.ports import free_ports, give_back

_HEALTHY_S = 40.0
_PORTS = 40
_KEPT = ("PATH", "HOME", "LANG", "TMPDIR")


@dataclass(frozen=True)
class Container:
    """One replica of a service."""

    service: str
    port: int
    daemon: Daemon

    @property
    def address(self) -> str:
        """Return where it listens."""
        return f"127.0.0.1:{self.port}"


class _Collector(trace_service_pb2_grpc.TraceServiceServicer):
    """Takes spans for Compose's collector, and keeps the names of those who sent them."""

    def __init__(self) -> None:
        self.senders: set[str] = set()
        self._server = grpc.server(ThreadPoolExecutor(2))
        trace_service_pb2_grpc.add_TraceServiceServicer_to_server(self, self._server)  # type: ignore[no-untyped-call]
        self.port = self._server.add_insecure_port("127.0.0.1:0")
        self._server.start()

    def Export(
        self, request: trace_service_pb2.ExportTraceServiceRequest, context: object
    ) -> trace_service_pb2.ExportTraceServiceResponse:
        for sent in request.resource_spans:
            self.senders |= {one.value.string_value for one in sent.resource.attributes if one.key == "service.name"}
        return trace_service_pb2.ExportTraceServiceResponse()

    def close(self) -> None:
        self._server.stop(0).wait()


class Topology:
    """Brings the services up as Compose does: each when those that it waits for are ready. Use it in a `with`.

    Instead of a network's names there are this machine's ports, and `database` and `redis` are servers of tests;
    whatever else a container is told, it is told here.
    """

    def __init__(self, folder: Path, *, database: str, redis: str, replicas: Mapping[str, int]) -> None:
        self._services = of_the_mesh(read())
        self._folder = folder
        self._redis = redis
        self.secrets = folder / "secrets"
        make_secrets(self.secrets)
        (self.secrets / "database_url").write_text(database)
        self._first_port = free_ports(_PORTS)
        ports = iter(range(self._first_port, self._first_port + _PORTS))
        self._ports = {
            name: [(next(ports), next(ports)) for _ in range(replicas.get(name, 1))] for name in self._services
        }
        self._collector = _Collector()
        self.containers: dict[str, list[Container]] = {}

    def __enter__(self) -> Self:
        try:
            for name in self._services:
                self._up(name)
            for name, containers in self.containers.items():  # as `docker compose up --wait` does
                for container in containers if "test" in self._services[name].get("healthcheck", {}) else []:
                    self._await(container, "service_healthy")
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def client_key(self) -> str:
        """Return the key that secrets.sh made for a client."""
        return (self.secrets / "client_key").read_text()

    @property
    def order(self) -> list[str]:
        """Return the services in the order in which they were started."""
        return list(self.containers)

    def address(self, service: str) -> str:
        """Return where the first replica of a service listens."""
        return self.containers[service][0].address

    @property
    def traced(self) -> set[str]:
        """Return the services that have sent spans so far."""
        return self._collector.senders

    def run(self, container: Container, words: list[str]) -> "subprocess.CompletedProcess[str]":
        """Run a command in a container, as its health check is."""
        service = self._services[container.service]
        return subprocess.run(
            agentmesh(service, words),
            cwd=self._folder,
            env=container.daemon.environment,
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )

    def is_healthy(self, container: Container) -> bool:
        """Ask a container's health check."""
        kind, program, *words = self._services[container.service]["healthcheck"]["test"]
        assert (kind, program) == ("CMD", "agentmesh")
        return self.run(container, words).returncode == 0

    def down(self) -> dict[str, int]:
        """Stop everything as Compose does, who waits for others first; return the exit codes."""
        running = [one for name in reversed(self.order) for one in self.containers[name] if one.daemon.running]
        return {f"{one.service}-{one.port}": one.daemon.end(signal.SIGTERM, timeout_s=45) for one in running}

    def close(self) -> None:
        """End everything, whatever state it is in."""
        for containers in self.containers.values():
            for container in containers:
                container.daemon.kill()
        self._collector.close()
        give_back(self._first_port, _PORTS)

    # -- inside ---------------------------------------------------------------------------------------------

    def _up(self, name: str) -> None:
        if name in self.containers:
            return
        for other, how in self._services[name].get("depends_on", {}).items():
            if other in self._services:
                self._up(other)
                for container in self.containers[other]:
                    self._await(container, how["condition"])
        self.containers[name] = [self._start(name, index) for index in range(len(self._ports[name]))]

    def _await(self, container: Container, condition: str) -> None:
        if condition == "service_completed_successfully":
            code = container.daemon.wait(_HEALTHY_S)
            assert code == 0, container.daemon.tail()
            return
        assert condition == "service_healthy"
        container.daemon.until(lambda: self.is_healthy(container), timeout_s=_HEALTHY_S)

    def _start(self, name: str, index: int) -> Container:
        folder = self._folder / f"{name}-{index}"
        (folder / "data").mkdir(parents=True)
        service = self._services[name]
        port, metrics_port = self._ports[name][index]
        environment = {variable: os.environ[variable] for variable in _KEPT if variable in os.environ}
        environment |= {key: self._here(text) for key, text in environment_of(service, self.secrets).items()}
        environment["AGENTMESH_DATA_DIR"] = str(folder / "data")
        if role := role_of(service).upper():
            environment[f"AGENTMESH_SERVICES__{role}__PORT"] = str(port)
            environment[f"AGENTMESH_SERVICES__{role}__METRICS_PORT"] = str(metrics_port)
        for source, target in mounts_of(service):
            environment = {key: str(source) if text == target else text for key, text in environment.items()}
        command = agentmesh(service, service["command"])
        container = Container(name, port, Daemon(command, log=folder / "log", environment=environment, folder=folder))
        container.daemon.start()
        return container

    def _here(self, text: str) -> str:
        """Return a variable's value with this machine's addresses: a name stands for every replica, as in a network."""

        def addresses(match: re.Match[str]) -> str:
            return ",".join(f"127.0.0.1:{port}" for port, _ in self._ports[match[1]])

        text = re.sub(r"\b([a-z-]+)\.mesh:\d+", addresses, text)
        text = text.replace("otel-collector:4317", f"127.0.0.1:{self._collector.port}")
        return self._redis if text.startswith("redis://") else text
