"""Rows B9, B14 and B15: the llm-proxy alone, on a core of its own, over a provider that counts its calls.

`proxy_relay` has the rows of what goes through to a provider, `proxy_memory` the one of what stays.
"""

import asyncio
import json
import os
import sys
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import psutil

from agentmesh.api.llm.v1 import llm_service_pb2 as pb
from agentmesh.api.llm.v1 import llm_service_pb2_grpc as rpc
from agentmesh.api.types.v1 import types_pb2
from agentmesh.kit import names
from agentmesh.kit.auth import Keyring, TaskClaims
from agentmesh.kit.rpc_client import bearer, open_channel
from tests.bench.anchors import Anchors
from tests.bench.batching import added_alone_ms
from tests.bench.figures import Sample
from tests.bench.lean_provider import MODELS, VECTORS
from tests.bench.load import keep_in_flight, percentile
from tests.bench.proof import WrongAnswer
from tests.bench.target import settle
from tests.support.daemon import Daemon
from tests.support.health import is_serving
from tests.support.ports import free_ports

ROWS_HERE = ("B9", "B14", "B15")

_SECRET = "a-secret-of-this-benchmark"
_START_S = 20.0
_CALL_S = 20.0
_SAME, _SINGLES = 200, 256
_STREAMS = 64  # calls on one connection


@dataclass(frozen=True, slots=True)
class Proxy:
    """A running llm-proxy."""

    stubs: list[Any]
    metadata: list[tuple[str, str]]
    log: Path
    pids: tuple[int, ...]
    """The proxy's process; it gets a core of its own."""
    lean_pid: int
    lean_url: str
    """The provider that is as fast as can be."""

    async def generate(self, prompt: str, model: str) -> pb.GenerateResponse:
        """Ask for a repeatable answer."""
        message = pb.ChatMessage(role=pb.CHAT_ROLE_USER, parts=[types_pb2.Part(text=prompt)])
        request = pb.GenerateRequest(model=model, messages=[message], sampling=pb.Sampling(temperature=0))
        return await self._call(0, "Generate", request)  # type: ignore[no-any-return]

    async def call(self, method: str, request: Any, *, connection: int = 0) -> Any:
        """Make a unary call."""
        return await self._call(connection, method, request)

    def stream(self, request: pb.GenerateRequest) -> Any:
        """Start a stream and return gRPC's call."""
        message = pb.StreamGenerateRequest(request=request)
        return self.stubs[0].StreamGenerate(message, timeout=_CALL_S, metadata=self.metadata)

    async def many(self, method: str, requests: list[Any]) -> list[Any]:
        """Make calls at once, over as many connections as they need."""
        return list(await asyncio.gather(*(self._call(n // _STREAMS, method, r) for n, r in enumerate(requests))))

    def calls(self, model: str) -> int:
        """Return how many calls the provider had for a model."""
        lines = [json.loads(line) for line in self.log.read_text(encoding="utf-8").splitlines()]
        return sum(line["event"] == "open" and line["model"] == model for line in lines)

    async def _call(self, connection: int, method: str, request: Any) -> Any:
        return await getattr(self.stubs[connection], method)(request, timeout=_CALL_S, metadata=self.metadata)


@asynccontextmanager
async def started_proxy(folder: Path, *, log_to: Path | None = None, **settings: str) -> AsyncIterator[Proxy]:
    """Start a counting provider, a lean one and an llm-proxy over both, and stop all at the end.

    `settings` are environment variables, without their AGENTMESH_; the proxy's output goes to `log_to`.
    """
    folder.mkdir()
    port, provider_port, lean_port = free_ports(2), free_ports(), free_ports(2)
    log = folder / "provider.log"
    fake = Daemon(
        [sys.executable, "-m", "tests.support.fake_provider", "--port", str(provider_port), "--log", str(log)],
        log=folder / "provider.out",
        environment={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    proxy = Daemon(
        [sys.executable, "-m", "agentmesh", "serve", "llm", "--data-dir", str(folder), "--port", str(port)],
        log=log_to or folder / "proxy.out",
        environment=_environment(provider_port, lean_port, port + 1, settings),
    )
    lean, collector = (
        Daemon(
            [sys.executable, "-m", f"tests.bench.{module}", "--port", str(at)],
            log=folder / f"{module}.out",
            environment={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        )
        for module, at in (("lean_provider", lean_port), ("collector", lean_port + 1))
    )
    address = f"127.0.0.1:{port}"
    with ExitStack() as daemons:
        for daemon in (fake, lean, collector, proxy):
            daemon.start()
            daemons.callback(daemon.kill)
        await asyncio.to_thread(proxy.until, partial(is_serving, names.LLM, address), timeout_s=_START_S)
        keyring = Keyring(_SECRET)
        token = keyring.sign(TaskClaims("bench", "task", 1, time.time() + 3600))
        async with AsyncExitStack() as stack:
            channels = [await stack.enter_async_context(open_channel(address)) for _ in range(-(-_SINGLES // _STREAMS))]
            metadata = [*bearer(keyring.role_token(names.RUNNER)), (names.TASK_TOKEN, token)]
            stubs = [rpc.LlmServiceStub(channel) for channel in channels]
            yield Proxy(stubs, metadata, log, (proxy.pid,), lean.pid, f"http://127.0.0.1:{lean_port}/v1")


async def measure(row: str, proxy: Proxy, anchors: Anchors, load_s: float, probes: int) -> Mapping[str, Sample]:
    """Measure one of ROWS_HERE."""
    await settle()
    if row == "B9":
        with pinned(*proxy.pids, anchors.pid):
            return await _hits(proxy, anchors, load_s, probes)
    if row == "B14":
        return await _same(proxy)
    calls = await _singles(proxy)
    await settle()
    return {**calls, "B15/alone": Sample(await added_alone_ms(probes), await anchors.idle_ms(probes))}


async def _hits(proxy: Proxy, anchors: Anchors, load_s: float, probes: int) -> Mapping[str, Sample]:
    """Row B9: the same question again and again."""
    first = await proxy.generate("What are rivers?", "ok")

    async def ask() -> None:
        answer = await proxy.generate("What are rivers?", "ok")
        if answer.cache != pb.CACHE_OUTCOME_HIT or answer.message != first.message:
            raise WrongAnswer("the answer is not the cached one")

    await keep_in_flight(ask, 32, load_s / 10)
    await settle()
    before = await anchors.unary(load_s / 2)
    loaded = await keep_in_flight(ask, 32, load_s)
    after = await anchors.unary(load_s / 2)
    await settle()
    idle = await anchors.idle_ms(probes)
    alone = []
    for _ in range(probes):
        began = time.perf_counter()
        await ask()
        alone.append((time.perf_counter() - began) * 1000)
    return {
        "B9/hits": Sample(loaded.per_second, (before + after) / 2),
        "B9/alone": Sample(percentile(alone, 50), idle),
    }


async def _same(proxy: Proxy) -> Mapping[str, Sample]:
    """Row B14: the same question from many at once."""
    message = pb.ChatMessage(role=pb.CHAT_ROLE_USER, parts=[types_pb2.Part(text="What is the sea?")])
    asked = pb.GenerateRequest(model="slow:20", messages=[message], sampling=pb.Sampling(temperature=0))
    answers = await proxy.many("Generate", [asked] * _SAME)
    if len({answer.message.parts[0].text for answer in answers}) != 1:
        raise WrongAnswer("the answers differ")
    return {"B14/calls": Sample(proxy.calls("slow:20"), _SAME)}


async def _singles(proxy: Proxy) -> Mapping[str, Sample]:
    """Row B15: many texts at once, each in a request of its own."""
    requests = [pb.EmbedRequest(model="vectors", inputs=[f"text {number}"]) for number in range(_SINGLES)]
    answers = await proxy.many("Embed", requests)
    if any(len(answer.embeddings) != 1 or answer.cached for answer in answers):
        raise WrongAnswer("a vector is missing, or was there before")
    return {"B15/calls": Sample(proxy.calls("vectors"), _SINGLES)}


@contextmanager
def pinned(*servers: int) -> Iterator[None]:
    """Give the servers' processes one core, of which only one works at a time, and this process the others."""
    first, *others = sorted(psutil.Process().cpu_affinity() or ())
    every = [first, *others]
    try:
        for pid in servers:
            _put_on(pid, [first])
        _put_on(os.getpid(), others or every)
        yield
    finally:
        for pid in (*servers, os.getpid()):
            _put_on(pid, every)


def _put_on(pid: int, cores: list[int]) -> None:
    """Put a process and every thread that it has on some cores; gRPC has threads of its own."""
    for thread in psutil.Process(pid).threads():
        with suppress(ProcessLookupError):
            os.sched_setaffinity(thread.id, cores)


def _environment(provider_port: int, lean_port: int, metrics_port: int, settings: Mapping[str, str]) -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("AGENTMESH_", "OPENAI_", "ANTHROPIC_"))}
    provider = {
        "name": "counting",
        "base_url": f"http://127.0.0.1:{provider_port}/v1",
        "models": ["ok", "slow:20"],
        "embedding_models": ["vectors"],
    }
    lean = {
        "name": "lean",
        "base_url": f"http://127.0.0.1:{lean_port}/v1",
        "models": list(MODELS),
        "embedding_models": [VECTORS],
        "pool": {"per_host": 64},
    }
    return {
        **kept,
        "AGENTMESH_SERVICES__TOKEN": _SECRET,
        "AGENTMESH_SERVICES__LLM__METRICS_PORT": str(metrics_port),
        "AGENTMESH_LLM__PROVIDERS": json.dumps([provider, lean]),
        "AGENTMESH_LOGGING__LEVEL": "INFO",
        "AGENTMESH_MONITORING__TRACING": "true",
        "AGENTMESH_MONITORING__OTLP_ENDPOINT": f"http://127.0.0.1:{lean_port + 1}",
        "AGENTMESH_MONITORING__SAMPLING_RATIO": "0.1",
        **{f"AGENTMESH_{name}": value for name, value in settings.items()},
    }
