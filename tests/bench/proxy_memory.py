"""Row B17: what an llm-proxy holds after very many requests, while nobody reads its log and Redis is gone."""

import asyncio
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path

import grpc
import psutil

from agentmesh.api.llm.v1 import llm_service_pb2 as pb
from agentmesh.api.types.v1 import types_pb2
from tests.bench.figures import Sample
from tests.bench.lean_provider import VECTORS
from tests.bench.proof import WrongAnswer
from tests.bench.proxy import Proxy, started_proxy
from tests.support.ports import free_ports

ROWS_HERE = ("B17",)

_IN_FLIGHT = 32
_WARM = 10  # a tenth of the requests fills what has a bound before the memory is first looked at
_CACHE_BYTES = 2 * 1024 * 1024
_KINDS = 8


async def measure(requests: int) -> Mapping[str, Sample]:
    """Measure the row: the memory after `requests` beside that after a tenth as many."""
    with tempfile.TemporaryDirectory(prefix="agentmesh-bench-") as folder, _unread_pipe(Path(folder)) as pipe:
        settings = {
            "CACHE__BACKEND": "redis",
            "CACHE__URL": f"redis://127.0.0.1:{free_ports()}",  # nobody
            "CACHE__MAX_BYTES": str(_CACHE_BYTES),
        }
        async with started_proxy(Path(folder) / "proxy", log_to=pipe, **settings) as proxy:
            numbers = count()
            await _ask_all(proxy, numbers, requests // _WARM)
            before = _memory_mib(proxy)
            await _ask_all(proxy, numbers, requests)
            return {"B17/memory": Sample(_memory_mib(proxy), before)}


@contextmanager
def _unread_pipe(folder: Path) -> Iterator[Path]:
    path = folder / "unread"
    os.mkfifo(path)
    reading = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        yield path
    finally:
        os.close(reading)


async def _ask_all(proxy: Proxy, numbers: Iterator[int], requests: int) -> None:
    async def worker(share: int) -> None:
        for _ in range(share):
            await _ask(proxy, next(numbers))

    async with asyncio.TaskGroup() as group:
        for _ in range(_IN_FLIGHT):
            group.create_task(worker(-(-requests // _IN_FLIGHT)))


async def _ask(proxy: Proxy, number: int) -> None:
    """Make one request of a mixture: hits, misses that are kept or not, streams, left ones, failures, vectors."""
    kind = number % _KINDS
    if kind == 0:
        await _generate(proxy, "lean", "What are rivers?", temperature=0.0)
    elif kind == 1:
        await _generate(proxy, "lean", f"Question {number}", temperature=0.0)
    elif kind == 2:
        await _generate(proxy, "lean", f"Question {number}")
    elif kind == 3:
        # Said in the log, each time.
        await _generate(proxy, "away", f"Question {number}", fallbacks=("lean",))
    elif kind == 4:
        with suppress(grpc.aio.AioRpcError):
            await _generate(proxy, f"unknown-{number}", "Is anybody there?")
            raise WrongAnswer("a model answered that is not there")
    elif kind == 5:
        await proxy.call("Embed", pb.EmbedRequest(model=VECTORS, inputs=[f"text {number}", "text"]))
    else:
        await _stream(proxy, number, leave=kind == 6)


async def _generate(
    proxy: Proxy, model: str, prompt: str, *, temperature: float | None = None, fallbacks: tuple[str, ...] = ()
) -> None:
    answer = await proxy.call("Generate", _question(model, prompt, temperature, fallbacks))
    if not answer.message.parts[0].text:
        raise WrongAnswer("there is no answer")


async def _stream(proxy: Proxy, number: int, *, leave: bool) -> None:
    call = proxy.stream(_question("paced" if leave else "lean", f"Question {number}"))
    if leave:
        await call.read()
        call.cancel()
        return
    async for _ in call:
        pass


def _question(
    model: str, prompt: str, temperature: float | None = None, fallbacks: tuple[str, ...] = ()
) -> pb.GenerateRequest:
    message = pb.ChatMessage(role=pb.CHAT_ROLE_USER, parts=[types_pb2.Part(text=prompt)])
    sampling = None if temperature is None else pb.Sampling(temperature=temperature)
    return pb.GenerateRequest(model=model, messages=[message], sampling=sampling, fallbacks=fallbacks)


def _memory_mib(proxy: Proxy) -> float:
    return sum(psutil.Process(pid).memory_info().rss for pid in proxy.pids) / 2**20
