"""One page of metrics over all workers of a gateway: what they count together, and what this machine gives them."""

import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import AsyncExitStack

from prometheus_client import REGISTRY, CollectorRegistry, Metric, multiprocess
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

from agentmesh.kit import names

_VARIABLE = "PROMETHEUS_MULTIPROC_DIR"
# What the parent knows for all of them.
_OWN = (
    names.BUILD_INFO,
    names.SERVING,
    names.DEPENDENCY_UP,
    names.DISK_BYTES,
    names.DISK_FREE_BYTES,
    names.MEMORY_BYTES,
    names.MEMORY_LIMIT_BYTES,
)
_ADDED = (
    "process_resident_memory_bytes",
    "process_virtual_memory_bytes",
    "process_cpu_seconds",
    "process_open_fds",
    "process_max_fds",
)


def registry_here() -> CollectorRegistry:
    """Return what a process shows of itself: of all workers together, if it is one of them."""
    if _VARIABLE not in os.environ:
        return REGISTRY
    registry = CollectorRegistry()
    multiprocess.MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
    return registry


class WorkerMetrics(Collector):
    """The metrics that workers write into a folder of their own, which is gone with the stack."""

    def __init__(self, stack: AsyncExitStack) -> None:
        self._folder = tempfile.mkdtemp(prefix="agentmesh-metrics-")
        stack.callback(shutil.rmtree, self._folder, ignore_errors=True)
        self._pids: set[int] = set()
        self.registry = CollectorRegistry()
        multiprocess.MultiProcessCollector(self.registry, path=self._folder)  # type: ignore[no-untyped-call]
        self.registry.register(self)

    @property
    def variables(self) -> Mapping[str, str]:
        """What a worker must find in its environment before it counts anything."""
        return {_VARIABLE: self._folder}

    def add(self, pid: int) -> None:
        """Note that a worker has begun."""
        self._pids.add(pid)

    def forget(self, pid: int) -> None:
        """Note that a worker has ended: what it counted stays, what it held does not."""
        self._pids.discard(pid)
        multiprocess.mark_process_dead(pid, path=self._folder)  # type: ignore[no-untyped-call]

    def collect(self) -> Iterator[Metric]:
        """Yield what the parent knows, and what processes use: it and its workers together."""
        yield from REGISTRY.restricted_registry(list(_OWN)).collect()
        together: dict[str, Metric] = {}
        for pid in (os.getpid(), *tuple(self._pids)):
            for metric in ProcessCollector(pid=lambda pid=pid: pid, registry=None).collect():  # type: ignore[misc]
                if metric.name not in _ADDED:
                    together.setdefault(metric.name, metric)  # of the parent, such as its start
                elif metric.name in together:
                    mine, its = together[metric.name].samples, metric.samples
                    together[metric.name].samples = [
                        sample._replace(value=sample.value + other.value)
                        for sample, other in zip(mine, its, strict=True)
                    ]
                else:
                    together[metric.name] = metric
        yield from together.values()
