import shutil
import urllib.error
import urllib.request
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from prometheus_client import REGISTRY

from agentmesh import __version__
from agentmesh.kit import config, names
from agentmesh.kit.metrics_server import serve_metrics
from agentmesh.kit.rpc_server import PortInUse
from tests.support.metrics import metric
from tests.support.ports import free_ports


async def test_a_process_tells_its_release_its_disk_and_its_memory(tmp_path: Path) -> None:
    port = free_ports()
    settings = config.load(environ={}, overrides={"services.router.metrics_port": port, "data_dir": str(tmp_path)})
    async with AsyncExitStack() as stack:
        # Going through all that the tests of a whole run have counted would take too long.
        own = REGISTRY.restricted_registry([names.BUILD_INFO])
        serve_metrics(names.ROUTER, settings, stack, own)
        assert metric(names.BUILD_INFO, role="router", version=__version__) == 1
        assert metric(names.DISK_BYTES) == shutil.disk_usage(tmp_path).total
        assert 0 < metric(names.DISK_FREE_BYTES) <= metric(names.DISK_BYTES)
        assert metric(names.MEMORY_LIMIT_BYTES) > 2**26
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
            assert names.BUILD_INFO.encode() in answer.read()
        with pytest.raises(PortInUse):
            serve_metrics(names.ROUTER, settings, stack)


async def test_metrics_that_are_off_are_served_nowhere(tmp_path: Path) -> None:
    port = free_ports()
    overrides = {"services.router.metrics_port": port, "monitoring.metrics": False}
    async with AsyncExitStack() as stack:
        serve_metrics(names.ROUTER, config.load(environ={}, overrides=overrides), stack)
        with pytest.raises(urllib.error.URLError):
            urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10)
