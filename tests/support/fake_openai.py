"""The half of the fake provider that speaks OpenAI's wire; `fake_provider` says what each model does."""

import email.utils
import hashlib
import json
import time
from collections.abc import Iterator
from typing import Any

from aiohttp import web


def answer_for(body: dict[str, Any]) -> str:
    """Return the answer to a request; the same for the same messages, with characters of two to four bytes."""
    digest = hashlib.sha256(json.dumps(body["messages"], sort_keys=True).encode()).hexdigest()[:8]
    return f"Réponse {digest} — 答え 🙂 to {len(body['messages'])} messages."


def usage_for(body: dict[str, Any]) -> dict[str, Any]:
    """Return the token counts of a request; half of the input counts as cached."""
    size = sum(len(str(message.get("content") or "").split()) for message in body["messages"])
    thought = {"completion_tokens_details": {"reasoning_tokens": 2}} if _thinks(body) else {}
    return {
        "prompt_tokens": size,
        "completion_tokens": len(answer_for(body).split()),
        "total_tokens": size + len(answer_for(body).split()),
        "prompt_tokens_details": {"cached_tokens": size // 2},
        **thought,
    }


def logprob_for(token: str, alternatives: int | None = None) -> dict[str, Any]:
    """Return how likely a token is, and as many others in its place; the last of these has no bytes of its own."""
    digest = hashlib.sha256(token.encode()).digest()
    told = {"token": token, "logprob": -digest[0] / 256, "bytes": list(token.encode())}
    if alternatives is None:
        return told
    others = [logprob_for(f"{token}{number}") for number in range(alternatives)]
    if others:
        others[-1]["bytes"] = None
    return {**told, "top_logprobs": others}


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
    if _thinks(body):
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
            yield _chunk(body, {"content": f" {word}"}, logprobs=_logprobs(body, f" {word}"))
    if mode != "no-reason":
        yield _chunk(body, {}, argument if mode == "stop" else reason)
    yield _event({**_frame(body), "choices": [], "usage": usage_for(body)})
    if mode != "no-done":
        yield b"data: [DONE]\n\n"


def _tool_chunks(body: dict[str, Any]) -> Iterator[bytes]:
    name = body["tools"][0]["function"]["name"]
    for index in range(1 if body.get("parallel_tool_calls") is False else 2):
        first = {"index": index, "id": f"call_{index}", "type": "function"}
        yield _chunk(body, {"tool_calls": [{**first, "function": {"name": name, "arguments": ""}}]})
        for piece in ('{"number"', f": {index}", "}"):
            yield _chunk(body, {"tool_calls": [{"index": index, "function": {"arguments": piece}}]})


def _frame(body: dict[str, Any]) -> dict[str, Any]:
    return {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "fake-1"}


def _thinks(body: dict[str, Any]) -> bool:
    return str(body["model"]).partition(":")[0] in ("reasoning", "thought-cut")


def _logprobs(body: dict[str, Any], token: str) -> dict[str, Any] | None:
    if not body.get("logprobs"):
        return None
    return {"content": [logprob_for(token, body.get("top_logprobs", 0))], "refusal": None}


def _chunk(body: dict[str, Any], delta: dict[str, Any], reason: str | None = None, *, logprobs: object = None) -> bytes:
    choice = {"index": 0, "delta": delta, "logprobs": logprobs, "finish_reason": reason}
    return _event({**_frame(body), "choices": [choice], "usage": None})


def _event(value: object) -> bytes:
    return b"data: " + json.dumps(value, ensure_ascii=False).encode() + b"\n\n"


def whole_answer(body: dict[str, Any]) -> dict[str, Any]:
    """Return an answer that is no stream."""
    message = {"role": "assistant", "content": answer_for(body)}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    frame = {**_frame(body), "object": "chat.completion"}
    return {**frame, "choices": [choice], "usage": usage_for(body)}


# What a server that follows no news knows.
_OLD_FIELDS = {"model", "messages", "stream", "stream_options", "tools", "tool_choice", "max_tokens", "temperature"}
_REFUSALS = {
    "too-long": ("context_length_exceeded", None),
    "filtered": ("content_filter", None),
    "image-too-large": ("image_too_large", None),
    "bad-image": ("invalid_image_format", None),
    "bad-tool-schema": ("invalid_function_parameters", "tools[0].function.parameters"),
    "bad-answer-schema": ("invalid_json_schema", "response_format"),
}


def refusal(mode: str, argument: str, body: dict[str, Any] | None = None) -> web.Response | None:
    """Return the answer of a model that gives none."""
    if mode == "old" and (unknown := sorted((body or {}).keys() - _OLD_FIELDS)):
        return _bad_request("unsupported_parameter", unknown[0])
    if mode == "picky" and "temperature" in (body or {}):
        return _bad_request("unsupported_value", "temperature")
    if mode in _REFUSALS:
        return _bad_request(*_REFUSALS[mode])
    if mode == "status":
        # As real ones do, it repeats what it was sent; none of that may get through.
        error = {"error": {"message": "CANARY-PROVIDER-TEXT", "type": "fake", "code": None}}
        return web.json_response(error, status=int(argument), headers={"Location": "http://127.0.0.1:9/"})
    if mode == "rate-limited":
        return web.json_response({"error": {}}, status=429, headers={"Retry-After": argument})
    if mode == "rate-limited-date":
        date = email.utils.formatdate(time.time() + int(argument), usegmt=True)
        return web.json_response({"error": {}}, status=429, headers={"Retry-After": date})
    if mode == "flood":
        error = {"error": {"code": "context_length_exceeded", "message": "x" * int(argument)}}
        return web.json_response(error, status=400)
    if mode == "html":
        return web.Response(text="<html>\n\ndata\n\n</html>", content_type="text/html")
    return None


def _bad_request(code: str, param: str | None) -> web.Response:
    error = {"message": "CANARY-PROVIDER-TEXT", "type": "invalid_request_error", "param": param, "code": code}
    return web.json_response({"error": error}, status=400)
