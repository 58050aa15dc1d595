"""Asks for health as the kubelet does: gRPC without TLS or credentials, for a second at most, each time anew."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from agentmesh.kit import names

REFUSED = "REFUSED"
_OPTIONS = (("grpc.use_local_subchannel_pool", 1),)
_PAUSE_S = 0.01


def probe(port: int, service: str) -> str:
    """Return SERVING, NOT_SERVING, another status's name, or REFUSED if nobody answers."""
    with grpc.insecure_channel(f"127.0.0.1:{port}", options=_OPTIONS) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        try:
            answer = stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=1)
        except grpc.RpcError as error:
            code = error.code()
            return REFUSED if code is grpc.StatusCode.UNAVAILABLE else str(code.name)
    return str(health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status))


def probes(port: int) -> tuple[str, str]:
    """Return what is said of life and of readiness."""
    return probe(port, names.LIVE), probe(port, "")


class Diary:
    """What a service answered, in order, each change once."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.entries: list[tuple[str, str]] = []
        self._closing = threading.Event()

    @contextmanager
    def kept(self) -> Iterator[None]:
        """Probe again and again until the block is left."""
        thread = threading.Thread(target=self._keep, daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._closing.set()
            thread.join()
            self._closing.clear()

    def wait_for(self, said: tuple[str, str], *, timeout_s: float = 30.0) -> None:
        """Wait until the last entry is this one."""
        end = time.monotonic() + timeout_s
        while self.entries[-1:] != [said]:
            if time.monotonic() > end:
                raise TimeoutError(f"waited {timeout_s} s for {said}; heard {self.entries}")
            time.sleep(_PAUSE_S)

    def _keep(self) -> None:
        while not self._closing.wait(_PAUSE_S):
            # One after the other: between them the service may change, so only what is said twice counts.
            said = probes(self.port)
            if said != self.entries[-1:] and said == probes(self.port) and [said] != self.entries[-1:]:
                self.entries.append(said)
