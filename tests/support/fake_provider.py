"""A provider of models on a free port: speaks OpenAI's wire and misbehaves as its model's name says.

In a test: `async with FakeProvider() as fake: fake.base_url`. As a process:
`python -m tests.support.fake_provider --port 0 --log FILE`, which prints `{"event": "ready", "base_url": …}` first.

| model | what it does |
|---|---|
| ok, usage | answers; the answer depends on the prompt only |
| slow:MS | waits before each chunk |
| tools | calls the first tool twice, in pieces; answers in words once a tool has answered |
| reasoning | thinks before it answers |
| long:N | answers with N chunks |
| late-end:MS | ends the body so long after the terminal marker |
| cut:N, reset:N | ends the body, or breaks the connection, after N bytes |
| stall:N | falls silent after N chunks, until the caller leaves |
| no-done, no-reason | leaves out the terminal marker, or the finish reason |
| garbage, html, error-event | sends a chunk that is no JSON, a page, an error after the first chunk |
| status:N | answers with that status |
| rate-limited:S, rate-limited-date:S | 429 with Retry-After in seconds, or as a date |
| slow-vectors:MS | waits before it answers with vectors |
| too-long | 400 with OpenAI's code for a conversation that is too long |
"""

import argparse
import asyncio
import base64
import contextlib
import email.utils
import hashlib
import json
import signal
import struct
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from aiohttp import web

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
        self._port = port
        self._log = log.open("a", buffering=1, encoding="utf-8") if log else None
        app = web.Application(client_max_size=16 * 1024 * 1024)
        app.router.add_post("/v1/chat/completions", self._chat)
        app.router.add_post("/v1/embeddings", self._embeddings)
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
            refusal = _refusal(mode, argument)
            if refusal is not None:
                hit.how = "refused"
                return refusal
            if not body.get("stream"):
                return web.json_response(_whole_answer(body))
            response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
            await response.prepare(request)
            if mode in ("cut", "reset"):
                hit.how = "cut"
                await response.write(sse_bytes(body)[: int(argument)])
                if mode == "reset" and request.transport is not None:
                    request.transport.close()
                return response
            for number, event in enumerate(sse_events(body)):
                if mode == "slow":
                    await asyncio.sleep(int(argument) / 1000)
                if mode == "stall" and number == int(argument):
                    await asyncio.sleep(_ENDLESS_S)
                await response.write(event)
            if mode == "late-end":
                await asyncio.sleep(int(argument) / 1000)
            return response

    async def _embeddings(self, request: web.Request) -> web.Response:
        body = await request.json()
        mode, _, argument = str(body["model"]).partition(":")
        with self._hit(request, body) as hit:
            refusal = _refusal(mode, argument)
            if refusal is not None:
                hit.how = "refused"
                return refusal
            if BAD_TEXT in body["input"]:
                hit.how = "refused"
                return web.json_response({"error": {"message": "bad input", "code": "invalid"}}, status=400)
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


def answer_for(body: dict[str, Any]) -> str:
    """Return the answer to a request; the same for the same messages, with characters of two to four bytes."""
    digest = hashlib.sha256(json.dumps(body["messages"], sort_keys=True).encode()).hexdigest()[:8]
    return f"Réponse {digest} — 答え 🙂 to {len(body['messages'])} messages."


def usage_for(body: dict[str, Any]) -> dict[str, Any]:
    """Return the token counts of a request; half of the input counts as cached."""
    size = sum(len(str(message.get("content") or "").split()) for message in body["messages"])
    return {
        "prompt_tokens": size,
        "completion_tokens": len(answer_for(body).split()),
        "total_tokens": size + len(answer_for(body).split()),
        "prompt_tokens_details": {"cached_tokens": size // 2},
    }


def vector_for(text: str, dimensions: int) -> list[float]:
    """Return a text's vector; its numbers are exact in 32 bits."""
    digest = hashlib.sha256(text.encode()).digest()
    return [(digest[i % len(digest)] - 128) / 128 for i in range(dimensions)]


def sse_bytes(body: dict[str, Any]) -> bytes:
    """Return the whole body of a streamed answer."""
    return b"".join(sse_events(body))


def sse_events(body: dict[str, Any]) -> Iterator[bytes]:
    """Yield the events of a streamed answer."""
    mode, _, argument = str(body["model"]).partition(":")
    answered = any(message["role"] == "tool" for message in body["messages"])
    reason = "stop"
    yield _chunk(body, {"role": "assistant", "content": ""})
    if mode == "error-event":
        error = {"message": f"overloaded by {body['messages']}", "type": "server_error"}
        yield _event({"error": error})
        return
    if mode == "garbage":
        yield b"data: {this is no JSON\n\n"
    if mode == "reasoning":
        yield _chunk(body, {"reasoning_content": "Hm, "})
        yield _chunk(body, {"reasoning_content": "so be it."})
    if mode == "tools" and body.get("tools") and not answered:
        yield from _tool_chunks(body)
        reason = "tool_calls"
    elif mode == "long":
        for number in range(int(argument)):
            yield _chunk(body, {"content": f"{number} "})
    else:
        for word in answer_for(body).split(" "):
            yield _chunk(body, {"content": f" {word}"})
    if mode != "no-reason":
        yield _chunk(body, {}, reason)
    yield _event({**_frame(body), "choices": [], "usage": usage_for(body)})
    if mode != "no-done":
        yield b"data: [DONE]\n\n"


def _tool_chunks(body: dict[str, Any]) -> Iterator[bytes]:
    name = body["tools"][0]["function"]["name"]
    for index in range(2):
        first = {"index": index, "id": f"call_{index}", "type": "function"}
        yield _chunk(body, {"tool_calls": [{**first, "function": {"name": name, "arguments": ""}}]})
        for piece in ('{"number"', f": {index}", "}"):
            yield _chunk(body, {"tool_calls": [{"index": index, "function": {"arguments": piece}}]})


def _frame(body: dict[str, Any]) -> dict[str, Any]:
    return {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "fake-1"}


def _chunk(body: dict[str, Any], delta: dict[str, Any], reason: str | None = None) -> bytes:
    choice = {"index": 0, "delta": delta, "finish_reason": reason}
    return _event({**_frame(body), "choices": [choice], "usage": None})


def _event(value: object) -> bytes:
    return b"data: " + json.dumps(value, ensure_ascii=False).encode() + b"\n\n"


def _whole_answer(body: dict[str, Any]) -> dict[str, Any]:
    message = {"role": "assistant", "content": answer_for(body)}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    frame = {**_frame(body), "object": "chat.completion"}
    return {**frame, "choices": [choice], "usage": usage_for(body)}


def _refusal(mode: str, argument: str) -> web.Response | None:
    if mode == "status":
        # As real ones do, it repeats what it was sent; none of that may get through.
        error = {"error": {"message": "CANARY-PROVIDER-TEXT", "type": "fake", "code": None}}
        return web.json_response(error, status=int(argument), headers={"Location": "http://127.0.0.1:9/"})
    if mode == "rate-limited":
        return web.json_response({"error": {}}, status=429, headers={"Retry-After": argument})
    if mode == "rate-limited-date":
        date = email.utils.formatdate(time.time() + int(argument), usegmt=True)
        return web.json_response({"error": {}}, status=429, headers={"Retry-After": date})
    if mode == "too-long":
        error = {"error": {"message": "CANARY-PROVIDER-TEXT", "code": "context_length_exceeded"}}
        return web.json_response(error, status=400)
    if mode == "html":
        return web.Response(text="<html>\n\ndata\n\n</html>", content_type="text/html")
    return None


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
