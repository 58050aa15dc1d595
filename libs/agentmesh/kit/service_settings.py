"""Say which settings the services' endpoints have: where they listen, where others find them, and their TLS."""

import ipaddress
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, ValidationInfo, field_validator

from agentmesh.kit.setting_types import ADDRESS, WILDCARDS, Addresses, Credential, Host, Port, Section, joined, listed

# Described once, because a field that is given another default loses its docstring.
ListenPort = Annotated[Port, Field(description="Where calls come in; 0 lets the system choose.")]
MetricsPort = Annotated[Port, Field(description="Where Prometheus reads, in plain HTTP; 0 lets the system choose.")]


class Endpoint(Section):
    """Where one service listens and where the others find it."""

    host: Host = "127.0.0.1"
    """Where to listen; `0.0.0.0` for every network."""
    port: ListenPort
    metrics_port: MetricsPort
    health_port: Port | None = None
    """Where the health protocol alone is served without TLS, for probes that can't do more; nowhere unless set."""
    address: Addresses = ()
    """`host:port`, one or several, as a list or separated by commas; without a port, this service's `port`.
    A name stands for every address it resolves to. Empty: `host` and `port`."""

    @property
    def listen(self) -> str:
        """The `host:port` to bind; localhost is 127.0.0.1, not whatever the system's table of hosts says."""
        return joined(self.bound_host, self.port)

    @property
    def metrics_listen(self) -> str:
        """The `host:port` to bind for metrics."""
        return joined(self.bound_host, self.metrics_port)

    @property
    def health_listen(self) -> str | None:
        """The `host:port` to bind for probes, if there is to be one."""
        return None if self.health_port is None else joined(self.bound_host, self.health_port)

    @property
    def bound_host(self) -> str:
        """The address to bind: localhost is 127.0.0.1."""
        return "127.0.0.1" if self.host == "localhost" else self.host

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can connect."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"

    @property
    def addresses(self) -> tuple[str, ...]:
        """Every `host:port` that others connect to; never empty, never a wildcard address by default."""
        if not self.address:
            return (joined(WILDCARDS.get(self.bound_host, self.bound_host), self.port),)
        matches = [ADDRESS.fullmatch(address) for address in self.address]
        return tuple(joined(m["v6"] or m["name"], int(m["port"] or self.port)) for m in matches if m)


class RouterEndpoint(Endpoint):
    """The public gRPC face."""

    port: ListenPort = 50051
    metrics_port: MetricsPort = 9090


class RunnerEndpoint(Endpoint):
    """Where routers reach the agents."""

    port: ListenPort = 50052
    metrics_port: MetricsPort = 9091


class LlmEndpoint(Endpoint):
    """Where runners reach the models."""

    port: ListenPort = 50053
    metrics_port: MetricsPort = 9092


class StorageEndpoint(Endpoint):
    """Where routers reach tasks, runners artifacts."""

    port: ListenPort = 50054
    metrics_port: MetricsPort = 9093


class GatewayEndpoint(Endpoint):
    """The HTTP edge."""

    port: ListenPort = 8000
    metrics_port: MetricsPort = 9094
    behind: Annotated[
        tuple[Literal["router", "runner", "llm", "storage"], ...],
        BeforeValidator(listed, json_schema_input_type=str | list[str]),
    ] = ("router", "runner", "llm", "storage")
    """The services that it stands before. It serves the routes of router and llm, and is ready when the router is, or
    the llm-proxy where there is no router."""

    @field_validator("behind")
    @classmethod
    def _something_is_served(cls, behind: tuple[str, ...]) -> tuple[str, ...]:
        if not {"router", "llm"} & set(behind):
            raise ValueError("must hold router or llm: there are no routes of the others")
        return behind


class Tls(Section):
    """Encryption between the services, and between them and clients; PEM files."""

    cert: Path | None = None
    """What listeners show, with `key`; within the mesh also what callers show, where they are asked."""
    key: Path | None = None
    """The private key of `cert`."""
    ca: Path | None = None
    """Who signed the certificates of the mesh. Services call each other over TLS as soon as it is set."""
    verify_clients: bool = False
    """Runner, llm and storage let nobody in without a certificate that `ca` signed."""
    in_front: bool = False
    """TLS ends at a proxy, a load balancer or a sidecar: services may listen beyond loopback without `cert`."""

    @field_validator("key")
    @classmethod
    def _certificate_has_its_key(cls, key: Path | None, info: ValidationInfo) -> Path | None:
        if "cert" in info.data and (info.data["cert"] is None) != (key is None):
            raise ValueError("cert and key are needed together")
        return key

    @field_validator("verify_clients")
    @classmethod
    def _somebody_signs_for_clients(cls, verify_clients: bool, info: ValidationInfo) -> bool:
        if verify_clients and not all(info.data.get(name, True) for name in ("cert", "ca")):
            raise ValueError("needs cert, key and ca")
        return verify_clients


class Services(Section):
    """The five services and what they share."""

    router: RouterEndpoint = RouterEndpoint()
    runner: RunnerEndpoint = RunnerEndpoint()
    llm: LlmEndpoint = LlmEndpoint()
    storage: StorageEndpoint = StorageEndpoint()
    gateway: GatewayEndpoint = GatewayEndpoint()
    token: Credential | None = None
    """What services prove themselves with to each other."""
    other_tokens: tuple[Credential, ...] = ()
    """What is accepted beside `token` while that is being replaced."""
    tls: Tls = Tls()
