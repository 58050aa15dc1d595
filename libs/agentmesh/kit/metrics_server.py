"""Serves a process's metrics, and says what they can't be read without: which release, on how large a machine."""

import shutil
from contextlib import AsyncExitStack
from pathlib import Path

from prometheus_client import REGISTRY, CollectorRegistry, start_http_server

from agentmesh import __version__
from agentmesh.kit import names, telemetry
from agentmesh.kit.machine import memory_limit, memory_used
from agentmesh.kit.rpc_server import PortInUse
from agentmesh.kit.settings import Settings

_build = telemetry.gauge(names.BUILD_INFO, "Always 1; the release is in the label", ("role", "version"))
_disk = telemetry.gauge(names.DISK_BYTES, "Size of the file system that holds data_dir")
_disk_free = telemetry.gauge(names.DISK_FREE_BYTES, "What is free there for this user")
_memory = telemetry.gauge(names.MEMORY_BYTES, "Resident memory of the process and of those that it started")
_memory_limit = telemetry.gauge(names.MEMORY_LIMIT_BYTES, "Memory that the container may take, else the machine's")


def serve_metrics(role: str, settings: Settings, stack: AsyncExitStack, registry: CollectorRegistry = REGISTRY) -> None:
    """Serve `/metrics` until the stack is left, if `monitoring.metrics` is on; raise PortInUse if that can't be."""
    if not settings.monitoring.metrics:
        return
    describe_process(role, settings)
    endpoint = getattr(settings.services, role)
    try:
        server, _ = start_http_server(endpoint.metrics_port, addr=endpoint.bound_host, registry=registry)
    except OSError as error:
        raise PortInUse(
            f"can't listen on {endpoint.metrics_listen} for metrics: is the port in use? Stop what uses it or "
            "choose another metrics_port",
            reason="PORT_IN_USE",
        ) from error
    stack.callback(server.server_close)
    stack.callback(server.shutdown)


def describe_process(role: str, settings: Settings) -> None:
    """Set the gauges of the process and its machine; disk and memory only for alerts."""
    _build.labels(role, __version__).set(1)
    if not settings.monitoring.alerts:
        return
    folder = settings.data_dir
    _disk.set_function(lambda: _usage(folder)[0])
    _disk_free.set_function(lambda: _usage(folder)[1])
    _memory.set_function(memory_used)
    _memory_limit.set(memory_limit())


def _usage(folder: Path) -> tuple[int, int]:
    """Return the bytes of the file system and those free, of the closest folder that is there already."""
    there = next(one for one in (folder.resolve(), *folder.resolve().parents) if one.exists())
    usage = shutil.disk_usage(there)
    return usage.total, usage.free
