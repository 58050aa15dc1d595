"""An llm-proxy whose log takes nothing answers as before, in the same memory, and ends when it is told to."""

import asyncio
import json
import os
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from agentmesh.api.llm.v1 import llm_service_pb2_grpc as rpc
from agentmesh.kit.auth import Keyring
from agentmesh.kit.rpc_client import open_channel
from tests.support.daemon import Daemon
from tests.support.fake_provider import FakeProvider
from tests.support.llm_service import LlmCaller, ask
from tests.support.ports import free_ports

_SECRET = "a-secret-of-this-test"
_QUEUE_BYTES = 65_536
_CALLS = 800  # each says a line of several hundred bytes: many times what pipe and queue hold
_MAX_GROWTH_BYTES = 8 * 1024 * 1024
_START_S = 20


@pytest.fixture
def unread(tmp_path: Path) -> Iterator[Path]:
    """A pipe with a name that nobody reads from."""
    path = tmp_path / "unread"
    os.mkfifo(path)
    reading = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    yield path
    os.close(reading)


@pytest.mark.parametrize("log", ["a pipe that nobody reads", "a full disk"])
async def test_a_log_that_takes_no_lines_stops_nothing(log: str, unread: Path, tmp_path: Path) -> None:
    port = free_ports(2)
    async with FakeProvider() as fake:
        proxy = _proxy(tmp_path, port, fake.base_url, Path("/dev/full") if log == "a full disk" else unread)
        proxy.start()
        try:
            async with open_channel(f"127.0.0.1:{port}") as channel:
                await asyncio.wait_for(channel.channel_ready(), _START_S)
                llm = LlmCaller(rpc.LlmServiceStub(channel), None, Keyring(_SECRET))
                await _call(llm, 100)
                before = psutil.Process(proxy.pid).memory_info().rss
                await _call(llm, _CALLS)
                grown = psutil.Process(proxy.pid).memory_info().rss - before
            assert _dropped(port + 1) > 100
            assert grown < _MAX_GROWTH_BYTES
            assert proxy.end() == 0
        finally:
            proxy.kill()


async def _call(llm: LlmCaller, count: int) -> None:
    # The first model isn't there, which is logged; the second one answers.
    for _ in range(count):
        answer = await llm.call("Generate", ask("status:404", fallbacks=["ok"]))
        assert answer.message.parts[0].text


def _dropped(metrics_port: int) -> float:
    with urllib.request.urlopen(f"http://127.0.0.1:{metrics_port}/metrics", timeout=10) as response:
        lines = response.read().decode().splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith("agentmesh_log_lines_dropped_total{"))


def _proxy(folder: Path, port: int, base_url: str, log: Path) -> Daemon:
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("AGENTMESH_", "OPENAI_", "ANTHROPIC_"))}
    provider = {"name": "fake", "base_url": base_url, "models": ["status:404", "ok"]}
    return Daemon(
        [sys.executable, "-m", "agentmesh", "serve", "llm", "--data-dir", str(folder), "--port", str(port)],
        log=log,
        environment={
            **kept,
            "PYTHONPATH": os.pathsep.join(sys.path),
            "AGENTMESH_SERVICES__TOKEN": _SECRET,
            "AGENTMESH_SERVICES__LLM__METRICS_PORT": str(port + 1),
            "AGENTMESH_LLM__PROVIDERS": json.dumps([provider]),
            "AGENTMESH_LOGGING__QUEUE_MAX_BYTES": str(_QUEUE_BYTES),
        },
    )
