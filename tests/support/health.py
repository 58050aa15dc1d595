"""Asks a process whether it serves, as an orchestrator would."""

import urllib.error
import urllib.request

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from agentmesh.kit import names

# Channels with equal options share connections, and with them the back-off after a failure.
_OPTIONS = (("grpc.use_local_subchannel_pool", 1),)


def is_serving(role: str, address: str) -> bool:
    """Say whether a service at an address is SERVING now."""
    if role == names.GATEWAY:
        try:
            with urllib.request.urlopen(f"http://{address}/health/ready", timeout=1) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False
    with grpc.insecure_channel(address, options=_OPTIONS) as channel:
        try:
            said = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=1)
        except grpc.RpcError:
            return False
        return bool(said.status == health_pb2.HealthCheckResponse.SERVING)
