"""Rows B10 to B12: what goes through the llm-proxy to a provider, which answers at once or says when it spoke."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from itertools import count

import aiohttp

from agentmesh.api.llm.v1 import llm_service_pb2 as pb
from agentmesh.api.types.v1 import types_pb2
from tests.bench.anchors import Anchors
from tests.bench.figures import Sample
from tests.bench.lean_provider import BURST_CHUNKS, PACED_CHUNKS
from tests.bench.load import Loaded, keep_in_flight, percentile
from tests.bench.proof import WrongAnswer
from tests.bench.proxy import Proxy, pinned
from tests.bench.target import settle

ROWS_HERE = ("B10", "B11", "B12")

_IN_FLIGHT = 32
_STREAMS = 8
_BURSTS = 16
_PROBES_A_ROUND = 50  # the usual 400 make 8 rounds
_LEAST_ADDED_MS = 0.001  # where noise makes the detour the shorter way


async def measure(row: str, proxy: Proxy, anchors: Anchors, load_s: float, probes: int) -> Mapping[str, Sample]:
    """Measure one of ROWS_HERE."""
    await settle()
    if row == "B11":
        return await _delays(proxy, anchors, probes)
    with pinned(*proxy.pids, anchors.pid):
        return await (_misses(proxy, anchors, load_s) if row == "B10" else _bursts(proxy, anchors, load_s))


async def _misses(proxy: Proxy, anchors: Anchors, load_s: float) -> Mapping[str, Sample]:
    """Row B10: questions that nobody asked before."""
    numbers = count()

    async def ask() -> None:
        answer = await proxy.call("Generate", _question("lean", f"Question {next(numbers)}: what is a river?"))
        if answer.message.parts[0].text != " A river carries water to the sea." or answer.cache == pb.CACHE_OUTCOME_HIT:
            raise WrongAnswer("that is not what the provider said")

    loaded, anchor = await _beside(anchors.unary, lambda seconds: keep_in_flight(ask, _IN_FLIGHT, seconds), load_s)
    return {"B10/misses": Sample(loaded.per_second, anchor)}


async def _bursts(proxy: Proxy, anchors: Anchors, load_s: float) -> Mapping[str, Sample]:
    """Row B12: streams whose chunks come one by one, as fast as they are taken."""
    whole = "".join(f" {number}" for number in range(BURST_CHUNKS))

    async def read() -> None:
        text = ""
        async for response in proxy.stream(_question("burst", "Count.")):
            text += "".join(delta.text for delta in response.deltas)
        if text != whole:
            raise WrongAnswer("a chunk is missing")

    loaded, anchor = await _beside(anchors.events, lambda seconds: keep_in_flight(read, _BURSTS, seconds), load_s)
    return {"B12/chunks": Sample(loaded.per_second * BURST_CHUNKS, anchor)}


@dataclass(slots=True)
class _Delays:
    """Milliseconds until the first text of each stream, and from each chunk's sending to its arrival."""

    first: list[float] = field(default_factory=list)
    chunk: list[float] = field(default_factory=list)


async def _delays(proxy: Proxy, anchors: Anchors, probes: int) -> Mapping[str, Sample]:
    """Row B11: the same slow streams through the proxy and straight from the provider, 8 at a time, by turns."""
    through, straight = _Delays(), _Delays()
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        await _read_all(lambda: _through(proxy), _Delays())
        await _read_all(lambda: _straight(session, proxy.lean_url), _Delays())
        before = await anchors.idle_ms(probes)
        for _ in range(max(1, probes // _PROBES_A_ROUND)):
            await _read_all(lambda: _straight(session, proxy.lean_url), straight)
            await _read_all(lambda: _through(proxy), through)
        idle = (before + await anchors.idle_ms(probes)) / 2
    return {
        "B11/first-p50": Sample(_added(through.first, straight.first, 50), idle),
        "B11/chunk-p50": Sample(_added(through.chunk, straight.chunk, 50), idle),
        "B11/chunk-p99": Sample(_added(through.chunk, straight.chunk, 99), idle),
    }


def _added(through: list[float], straight: list[float], percent: float) -> float:
    """Return what the detour adds to a percentile."""
    return max(_LEAST_ADDED_MS, percentile(through, percent) - percentile(straight, percent))


async def _read_all(open_stream: Callable[[], AsyncIterator[list[str]]], delays: _Delays) -> None:
    """Read streams at once; each of their chunks is the time at which it was sent."""

    async def read() -> None:
        began, sent = time.monotonic_ns(), 0
        async for texts in open_stream():
            now = time.monotonic_ns()
            if texts and not sent:
                delays.first.append((now - began) / 1e6)
            sent += len(texts)
            delays.chunk += [(now - int(text)) / 1e6 for text in texts]
        if sent != PACED_CHUNKS:
            raise WrongAnswer(f"{sent} chunks came instead of {PACED_CHUNKS}")

    async with asyncio.TaskGroup() as group:
        for _ in range(_STREAMS):
            group.create_task(read())


async def _through(proxy: Proxy) -> AsyncIterator[list[str]]:
    async for response in proxy.stream(_question("paced", "Speak slowly.")):
        yield [delta.text for delta in response.deltas if delta.text]


async def _straight(session: aiohttp.ClientSession, url: str) -> AsyncIterator[list[str]]:
    body = {"model": "paced", "stream": True, "messages": [{"role": "user", "content": "Speak slowly."}]}
    data = json.dumps(body, separators=(",", ":")).encode()
    async with session.post(f"{url}/chat/completions", data=data) as response:
        rest = b""
        while piece := await response.content.readany():
            *events, rest = (rest + piece).split(b"\n\n")
            values = [json.loads(event[len(b"data: ") :]) for event in events if event != b"data: [DONE]"]
            yield [c["delta"]["content"] for value in values for c in value["choices"] if c["delta"].get("content")]


async def _beside(
    anchor: Callable[[float], Awaitable[float]], load: Callable[[float], Awaitable[Loaded[None]]], load_s: float
) -> tuple[Loaded[None], float]:
    """Time a load and its anchor, half of that before it and half after."""
    await load(load_s / 10)
    await settle()
    before = await anchor(load_s / 2)
    loaded = await load(load_s)
    await settle()
    return loaded, (before + await anchor(load_s / 2)) / 2


def _question(model: str, prompt: str) -> pb.GenerateRequest:
    message = pb.ChatMessage(role=pb.CHAT_ROLE_USER, parts=[types_pb2.Part(text=prompt)])
    return pb.GenerateRequest(model=model, messages=[message])
