"""The half of the fake provider that speaks Anthropic's wire; `fake_provider` says what each model does."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

from aiohttp import web

from tests.support import fake_openai
from tests.support.fake_anthropic_rules import REDACTED, SIGNATURE, fault_of
from tests.support.fake_openai import answer_for

# The types of error that the API documents, by status.
_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    529: "overloaded_error",
}
_THOUGHTS = ("Hm, ", "so be it.")
_REFUSALS = {
    "too-long": "CANARY-PROVIDER-TEXT prompt is too long: 250000 tokens > 200000 maximum",
    "filtered": "Output blocked by content filtering policy CANARY-PROVIDER-TEXT",
    "image-too-large": "messages.0.content.0.image.source.base64: image exceeds 5 MB maximum: CANARY-PROVIDER-TEXT",
    "bad-image": "Could not process image CANARY-PROVIDER-TEXT",
    "bad-tool-schema": "tools.0.custom.input_schema: JSON schema is invalid. CANARY-PROVIDER-TEXT",
    "bad-answer-schema": "output_config.format.schema: CANARY-PROVIDER-TEXT",
}


def usage_for(body: dict[str, Any]) -> dict[str, Any]:
    """Return the token counts of a request: fresh input, input written to and read from the cache, output."""
    size = len(json.dumps(body["messages"]).split())
    return {
        "input_tokens": size,
        "cache_creation_input_tokens": 3,
        "cache_read_input_tokens": size // 2,
        "output_tokens": len(answer_for(body).split()),
    }


def sse_bytes(body: dict[str, Any]) -> bytes:
    """Return the whole body of a streamed answer."""
    return b"".join(sse_events(body))


def sse_events(body: dict[str, Any]) -> Iterator[bytes]:
    """Yield the events of a streamed answer."""
    mode, _, argument = str(body["model"]).partition(":")
    usage = usage_for(body)
    reason = "end_turn"
    yield _event("message_start", message=_message([], None, {**usage, "output_tokens": 1}))
    if mode == "error-event":
        # As real ones do, it repeats what it was sent; none of that may get through.
        text = f"overloaded by {body['messages']}"
        yield _event("error", error={"type": argument or "overloaded_error", "message": text})
        return
    if mode == "garbage":
        yield b"event: content_block_delta\ndata: {this is no JSON\n\n"
    index = 0
    if mode == "novel":
        yield _event("weather_report", index=0, sky="blue")
        yield from _block(0, {"type": "weather", "sky": "blue"}, [{"type": "weather_delta", "sky": "grey"}])
        yield from _block(1, {"type": "server_tool_use", "id": "s_0", "name": "w", "input": {}}, _pieces('{"a": 1}'))
        index = 2
    if _thinks(body):
        shown = body.get("thinking", {}).get("display") != "omitted"
        thoughts = [{"type": "thinking_delta", "thinking": text} for text in _THOUGHTS if shown]
        signature = {"type": "signature_delta", "signature": SIGNATURE}
        yield from _block(0, {"type": "thinking", "thinking": "", "signature": ""}, [*thoughts, signature])
        yield from _block(1, {"type": "redacted_thinking", "data": REDACTED}, [])
        index = 2
    if mode in ("tools", "bare") and body.get("tools") and not _answered(body):
        inputs = ('{"number": 0}', '{"number": 1}') if mode == "tools" else ("",)
        alone = body["tool_choice"].get("disable_parallel_tool_use", False)
        yield from _tool_blocks(body, inputs[:1] if alone else inputs, index)
        reason = "tool_use"
    else:
        words = [f"{n} " for n in range(int(argument))] if mode == "long" else _words(body)
        yield from _block(index, {"type": "text", "text": ""}, [{"type": "text_delta", "text": word} for word in words])
    stop = None if mode == "no-reason" else argument if mode == "stop" else reason
    # As real ones do, it leaves out what it has said before.
    told: dict[str, Any] = {"output_tokens": usage["output_tokens"], "cache_read_input_tokens": None}
    if _thinks(body):
        told["output_tokens_details"] = {"thinking_tokens": 2}
    yield _event("message_delta", delta={"stop_reason": stop, "stop_sequence": None}, usage=told)
    if mode != "no-done":
        yield _event("message_stop")


def whole_answer(body: dict[str, Any]) -> dict[str, Any]:
    """Return an answer that is no stream."""
    return _message([{"type": "text", "text": answer_for(body)}], "end_turn", usage_for(body))


def refusal(mode: str, argument: str, body: dict[str, Any], headers: Mapping[str, str]) -> web.Response | None:
    """Return the answer of a model that gives none, and to what the API would refuse."""
    if mode == "status":
        location = {"Location": "http://127.0.0.1:9/"}
        return _error(int(argument), "CANARY-PROVIDER-TEXT", location)
    if mode in ("rate-limited", "rate-limited-date"):
        delay = fake_openai.refusal(mode, argument)
        assert delay is not None
        return _error(429, "CANARY-PROVIDER-TEXT", {"Retry-After": delay.headers["Retry-After"]})
    if mode in _REFUSALS:
        return _error(400, _REFUSALS[mode])
    if mode in ("html", "flood"):
        return fake_openai.refusal(mode, argument)
    if mode == "picky" and "temperature" in body:
        return _error(400, "`temperature` is deprecated for this model. CANARY-PROVIDER-TEXT")
    fault = fault_of(body, headers)
    return _error(400, fault) if fault else None


def _thinks(body: dict[str, Any]) -> bool:
    asked = body.get("thinking", {}).get("type") in ("enabled", "adaptive")
    return asked or str(body["model"]).partition(":")[0] in ("reasoning", "thought-cut")


def _answered(body: dict[str, Any]) -> bool:
    contents = [message["content"] for message in body["messages"] if isinstance(message["content"], list)]
    return any(block["type"] == "tool_result" for content in contents for block in content)


def _words(body: dict[str, Any]) -> list[str]:
    return [f" {word}" for word in answer_for(body).split(" ")]


def _tool_blocks(body: dict[str, Any], inputs: tuple[str, ...], first: int) -> Iterator[bytes]:
    yield from _block(first, {"type": "text", "text": ""}, [{"type": "text_delta", "text": "Let me look."}])
    for number, arguments in enumerate(inputs):
        block = {"type": "tool_use", "id": f"toolu_{number}", "name": body["tools"][0]["name"], "input": {}}
        yield from _block(first + number + 1, block, _pieces(arguments))


def _pieces(text: str) -> list[dict[str, Any]]:
    # The first piece of an input is always empty.
    cuts = ("", text[:3], text[3:-1], text[-1:])
    return [{"type": "input_json_delta", "partial_json": cut} for cut in cuts if cut or cut is cuts[0]]


def _block(index: int, block: dict[str, Any], deltas: list[dict[str, Any]]) -> Iterator[bytes]:
    yield _event("content_block_start", index=index, content_block=block)
    for number, delta in enumerate(deltas):
        yield _event("content_block_delta", index=index, delta=delta)
        if number == 0:
            yield _event("ping")
    yield _event("content_block_stop", index=index)


def _message(content: list[dict[str, Any]], reason: str | None, usage: dict[str, Any]) -> dict[str, Any]:
    frame = {"id": "msg_1", "type": "message", "role": "assistant", "model": "fake-1", "content": content}
    return {**frame, "stop_reason": reason, "stop_sequence": None, "usage": usage}


def _event(kind: str, **fields: object) -> bytes:
    data = json.dumps({"type": kind, **fields}, ensure_ascii=False)
    return f"event: {kind}\ndata: {data}\n\n".encode()


def _error(status: int, message: str, headers: Mapping[str, str] | None = None) -> web.Response:
    error = {"type": _TYPES.get(status, "api_error"), "message": message}
    return web.json_response({"type": "error", "error": error, "request_id": "req_1"}, status=status, headers=headers)
