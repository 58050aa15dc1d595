"""A provider of models on a free port: speaks OpenAI's two wires and Anthropic's, misbehaves as its model's name says.

In a test: `async with FakeProvider() as fake: fake.base_url`. As a process:
`python -m tests.support.fake_provider --port 0 --log FILE`, which prints `{"event": "ready", "base_url": …}` first.

| model | what it does |
|---|---|
| ok, usage | answers; the answer depends on the prompt only |
| slow:MS | waits before each chunk |
| tools | calls the first tool twice, in pieces; answers in words once a tool has answered |
| reasoning | thinks before it answers |
| stop:REASON | ends for that reason |
| picky | takes no temperature |
| filtered, image-too-large, bad-image, bad-tool-schema, bad-answer-schema | 400 for that |
| long:N | answers with N chunks |
| late-end:MS | ends the body so long after the terminal marker |
| cut:N, reset:N | ends the body, or breaks the connection, after N bytes |
| thought-cut:N | thinks, and ends the body after N bytes |
| stall:N | falls silent after N chunks, until the caller leaves |
| part:N | stops after N chunks, until `let_go` is set |
| no-done, no-reason | leaves out the terminal marker, or the finish reason |
| garbage, html, error-event | sends a chunk that is no JSON, a page, an error after the first chunk |
| status:N | answers with that status |
| rate-limited:S, rate-limited-date:S | 429 with Retry-After in seconds, or as a date |
| held, held-then-429:S | answers, or asks for patience, when `let_go` is set |
| slow-vectors:MS | waits before it answers with vectors |
| flood:N | 400 with a body of more than N bytes |
| too-long | 400 with the code, or the words, for a conversation that is too long |

Likelihoods, thinking, one call at a time: what the body asks for is done. On OpenAI's wire, old refuses what old
servers don't know. Anthropic's wire knows more: error-event:TYPE sends an error of that type, novel sends events and
blocks that nobody knows yet, bare calls the first tool without arguments. What its API would refuse is refused. The
wire of the Responses API knows most of these, and failed:CODE, no-usage, and whole-items, which come without pieces.
"""

import argparse
import asyncio
import base64
import contextlib
import hashlib
import json
import signal
import struct
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from aiohttp import web

from tests.support import fake_anthropic, fake_batches, fake_openai, fake_responses
from tests.support.fake_openai import vector_for

BAD_TEXT = "a text that can't be embedded"
"""One among others makes the provider refuse all of them."""

_ENDLESS_S = 3600.0


@dataclass
class Hit:
    """One request; `how` is done, refused, cut or client_gone once it is closed."""

    number: int
    path: str
    model: str
    body: dict[str, Any]
    headers: dict[str, str]
    peer: object = None
    how: str = ""
    closed: asyncio.Event = field(default_factory=asyncio.Event)


class FakeProvider:
    """Serves until left; `hits` are all requests so far, in order."""

    def __init__(self, *, port: int = 0, log: Path | None = None) -> None:
        self.hits: list[Hit] = []
        self.base_url = ""
        self.let_go = asyncio.Event()
        self._port = port
        self._log = log.open("a", buffering=1, encoding="utf-8") if log else None
        app = web.Application(client_max_size=16 * 1024 * 1024)
        app.router.add_post("/v1/chat/completions", self._chat)
        app.router.add_post("/v1/responses", self._responses)
        app.router.add_post("/v1/messages", self._messages)
        app.router.add_post("/v1/embeddings", self._embeddings)
        app.router.add_post("/v1/rerank", self._rerank)
        app.router.add_post("/v1/completions", self._completions)
        app.router.add_get("/v1/models", self._models)
        # A caller that leaves cancels its handler: that is how a closed socket gets into the log.
        self._runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1, access_log=None)

    async def __aenter__(self) -> Self:
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self._port)
        await site.start()
        self.base_url = f"http://127.0.0.1:{self._runner.addresses[0][1]}/v1"
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._runner.cleanup()
        if self._log:
            self._log.close()

    @contextlib.contextmanager
    def _hit(self, request: web.Request, body: dict[str, Any]) -> Iterator[Hit]:
        peer = request.transport.get_extra_info("peername") if request.transport else None
        number = len(self.hits) + 1
        hit = Hit(number, request.path, str(body.get("model")), body, dict(request.headers), peer)
        self.hits.append(hit)
        digest = hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
        self._write(event="open", hit=hit.number, path=hit.path, model=hit.model, body_sha256=digest)
        try:
            yield hit
            hit.how = hit.how or "done"
        except (asyncio.CancelledError, ConnectionError):
            hit.how = hit.how or "client_gone"
            raise
        finally:
            hit.closed.set()
            self._write(event="close", hit=hit.number, how=hit.how)

    def _write(self, **fields: object) -> None:
        if self._log:
            self._log.write(json.dumps({"time": time.time(), **fields}) + "\n")

    async def _models(self, request: web.Request) -> web.Response:
        return web.json_response({"object": "list", "data": [{"id": "ok", "object": "model"}]})

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        mode, _, argument = str(body["model"]).partition(":")
        with self._hit(request, body) as hit:
            if mode == "held-then-429":
                await self.let_go.wait()
                mode = "rate-limited"
            refusal = fake_openai.refusal(mode, argument, body)
            return await self._answer(request, hit, refusal, fake_openai.sse_events, fake_openai.whole_answer)

    async def _responses(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        mode, _, argument = str(body["model"]).partition(":")
        with self._hit(request, body) as hit:
            refusal = fake_responses.refusal(mode, argument, body, hit.headers)
            return await self._answer(request, hit, refusal, fake_responses.sse_events, fake_responses.whole_answer)

    async def _messages(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        mode, _, argument = str(body["model"]).partition(":")
        with self._hit(request, body) as hit:
            refusal = fake_anthropic.refusal(mode, argument, body, hit.headers)
            return await self._answer(request, hit, refusal, fake_anthropic.sse_events, fake_anthropic.whole_answer)

    async def _answer(
        self,
        request: web.Request,
        hit: Hit,
        refusal: web.Response | None,
        events: Callable[[dict[str, Any]], Iterable[bytes]],
        whole: Callable[[dict[str, Any]], dict[str, Any]],
    ) -> web.StreamResponse:
        mode, _, argument = hit.model.partition(":")
        if refusal is not None:
            hit.how = "refused"
            return refusal
        if mode == "held":
            await self.let_go.wait()
        if not hit.body.get("stream"):
            return web.json_response(whole(hit.body))
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        if mode in ("cut", "thought-cut", "reset"):
            hit.how = "cut"
            await response.write(b"".join(events(hit.body))[: int(argument)])
            if mode == "reset" and request.transport is not None:
                request.transport.close()
            return response
        for number, event in enumerate(events(hit.body)):
            if mode == "slow":
                await asyncio.sleep(int(argument) / 1000)
            if mode == "stall" and number == int(argument):
                await asyncio.sleep(_ENDLESS_S)
            if mode == "part" and number == int(argument):
                await self.let_go.wait()
            await response.write(event)
        if mode == "late-end":
            await asyncio.sleep(int(argument) / 1000)
        return response

    async def _embeddings(self, request: web.Request) -> web.Response:
        body = await request.json()
        mode, _, argument = str(body["model"]).partition(":")
        with self._hit(request, body) as hit:
            refusal = fake_openai.refusal(mode, argument)
            if refusal is not None:
                hit.how = "refused"
                return refusal
            if BAD_TEXT in body["input"]:
                hit.how = "refused"
                return web.json_response({"error": {"message": "bad input", "code": "invalid"}}, status=400)
            if mode == "held":
                await self.let_go.wait()
            if mode == "slow-vectors":
                await asyncio.sleep(int(argument) / 1000)
            vectors = [vector_for(text, body.get("dimensions", 8)) for text in body["input"]]
            if body.get("encoding_format") == "base64" and not mode.startswith("floats"):
                encoded: list[Any] = [base64.b64encode(struct.pack(f"<{len(v)}f", *v)).decode() for v in vectors]
            else:
                encoded = list(vectors)
            data = [{"object": "embedding", "index": i, "embedding": e} for i, e in enumerate(encoded)]
            data.reverse()  # the order is the index's, not the list's
            usage = {"prompt_tokens": len(body["input"]), "total_tokens": len(body["input"])}
            return web.json_response({"object": "list", "data": data, "model": "fake-1", "usage": usage})

    async def _rerank(self, request: web.Request) -> web.Response:
        body = await request.json()
        with self._hit(request, body) as hit:
            return await self._batch(hit, body["documents"], fake_batches.scores)

    async def _completions(self, request: web.Request) -> web.Response:
        body = await request.json()
        with self._hit(request, body) as hit:
            return await self._batch(hit, body["prompt"], fake_batches.completions)

    async def _batch(
        self, hit: Hit, texts: list[str], answer: Callable[[dict[str, Any]], dict[str, Any]]
    ) -> web.Response:
        mode, _, argument = hit.model.partition(":")
        if mode == "held":
            await self.let_go.wait()
        refusal = fake_openai.refusal(mode, argument)
        if refusal is None and BAD_TEXT in texts:
            refusal = web.json_response({"error": {"message": "bad input", "code": "invalid"}}, status=400)
        if refusal is not None:
            hit.how = "refused"
            return refusal
        return web.json_response(answer(hit.body))


async def _serve(port: int, log: Path | None) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with FakeProvider(port=port, log=log) as fake:
        print(json.dumps({"event": "ready", "base_url": fake.base_url}), flush=True)
        await stop.wait()


def main() -> None:
    """Run as a process."""
    parser = argparse.ArgumentParser(description="A provider of models that misbehaves on request.")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--log", type=Path)
    arguments = parser.parse_args()
    asyncio.run(_serve(arguments.port, arguments.log))


if __name__ == "__main__":
    main()
