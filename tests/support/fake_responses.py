"""The half of the fake provider that speaks OpenAI's Responses API; `fake_provider` says what each model does."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

from aiohttp import web

from tests.support import fake_openai

_FIELDS = {
    "model",
    "input",
    "stream",
    "store",
    "include",
    "tools",
    "tool_choice",
    "text",
    "reasoning",
    "temperature",
    "top_p",
    "max_output_tokens",
    "parallel_tool_calls",
    "top_logprobs",
    "prompt_cache_key",
}
_PARTS = {"input_text": "text", "input_image": "image_url", "input_file": ""}
KEPT = "ZW5jcnlwdGVk"
"""What the model thought, as the API gives it and wants it back."""
_THOUGHTS = ("Hm, ", "so be it.")
_Item = dict[str, Any]


def answer_for(body: dict[str, Any]) -> str:
    """Return the answer to a request; the same for the same input."""
    return fake_openai.answer_for({"messages": body["input"]})


def usage_for(body: dict[str, Any]) -> dict[str, Any]:
    """Return the token counts of a request."""
    size, written = len(json.dumps(body["input"]).split()), len(answer_for(body).split())
    return {
        "input_tokens": size,
        "input_tokens_details": {"cached_tokens": size // 2, "cache_write_tokens": 1},
        "output_tokens": written + 2,
        "output_tokens_details": {"reasoning_tokens": 2},
        "total_tokens": size + written + 2,
    }


def sse_bytes(body: dict[str, Any]) -> bytes:
    """Return the whole body of a streamed answer."""
    return b"".join(sse_events(body))


def sse_events(body: dict[str, Any]) -> Iterator[bytes]:
    """Yield the events of a streamed answer, those that come together as one."""
    mode, _, argument = str(body["model"]).partition(":")
    stream = _Stream(body)
    yield stream.event("response.created", response=stream.response()) + stream.event(
        "response.in_progress", response=stream.response()
    )
    if mode in ("error-event", "failed"):
        # As real ones do, it repeats what it was sent; none of that may get through.
        error = {"code": argument or "server_error", "message": f"overloaded by {body['input']}", "param": None}
        if mode == "failed":
            yield stream.event("response.failed", response=stream.response("failed", error=error))
        else:
            yield stream.event("error", **error)
        return
    if mode == "garbage":
        yield b"event: response.output_text.delta\ndata: {this is no JSON\n\n"
    if mode == "novel":
        yield from stream.novelties()
    if mode in ("reasoning", "thought-cut"):
        yield from stream.reasoning()
    answered = any(item.get("type") == "function_call_output" for item in body["input"])
    if mode in ("tools", "bare", "whole-items") and body.get("tools") and not answered:
        for number in range(2):
            arguments = "" if mode == "bare" else json.dumps({"number": number})
            yield from stream.call(number, arguments, mode != "whole-items")
    else:
        words = [f"{n} " for n in range(int(argument))] if mode == "long" else _words(body)
        yield from stream.message(words, mode != "whole-items")
    if mode == "no-done":
        return
    status = "incomplete" if mode in ("no-reason", "stop") else "completed"
    details = {"reason": argument} if mode == "stop" else None
    yield stream.event(f"response.{status}", response=stream.response(status, details, told=mode != "no-usage"))


class _Stream:
    """Numbers the events and keeps the items of one answer."""

    def __init__(self, body: dict[str, Any]) -> None:
        self._body = body
        self._number = 0
        self._output: list[_Item] = []

    def event(self, kind: str, **fields: object) -> bytes:
        data = json.dumps({"type": kind, "sequence_number": self._number, **fields}, ensure_ascii=False)
        self._number += 1
        return f"event: {kind}\ndata: {data}\n\n".encode()

    def response(
        self, status: str = "in_progress", details: object = None, *, error: object = None, told: bool = False
    ) -> dict[str, Any]:
        usage = usage_for(self._body) if told else None
        frame = {"id": "resp_1", "object": "response", "created_at": 1, "model": "fake-1", "status": status}
        return {**frame, "error": error, "incomplete_details": details, "output": self._output, "usage": usage}

    def message(self, words: list[str], pieces: bool) -> Iterator[bytes]:
        item = {"id": "msg_1", "type": "message", "role": "assistant", "status": "in_progress", "content": []}
        place = {"item_id": "msg_1", "output_index": len(self._output)}
        part: _Item = {"type": "output_text", "text": "", "annotations": []}
        yield self._added(item) + self.event("response.content_part.added", **place, content_index=0, part=part)
        for word in words if pieces else ():
            likely = self._logprobs(word)
            yield self.event("response.output_text.delta", **place, content_index=0, delta=word, logprobs=likely)
        text = "".join(words)
        yield self.event("response.output_text.done", **place, content_index=0, text=text, logprobs=[])
        yield self._done({**item, "status": "completed", "content": [{**part, "text": text}]})

    def call(self, number: int, arguments: str, pieces: bool) -> Iterator[bytes]:
        name = self._body["tools"][0]["name"]
        item = {"id": f"fc_{number}", "type": "function_call", "call_id": f"call_{number}", "name": name}
        place = {"item_id": item["id"], "output_index": len(self._output)}
        yield self._added({**item, "arguments": "", "status": "in_progress"})
        for piece in (arguments[:3], arguments[3:]) if pieces and arguments else ():
            yield self.event("response.function_call_arguments.delta", **place, delta=piece)
        yield self.event("response.function_call_arguments.done", **place, name=name, arguments=arguments)
        yield self._done({**item, "arguments": arguments, "status": "completed"})

    def reasoning(self) -> Iterator[bytes]:
        item: _Item = {"id": "rs_1", "type": "reasoning", "summary": []}
        place = {"item_id": "rs_1", "output_index": len(self._output), "summary_index": 0}
        part = {"type": "summary_text", "text": ""}
        yield self._added(item) + self.event("response.reasoning_summary_part.added", **place, part=part)
        for thought in _THOUGHTS:
            yield self.event("response.reasoning_summary_text.delta", **place, delta=thought)
        done = {**item, "summary": [{**part, "text": "".join(_THOUGHTS)}]}
        yield self._done({**done, "encrypted_content": KEPT} if self._wants("reasoning.encrypted_content") else done)

    def novelties(self) -> Iterator[bytes]:
        """Yield what nobody knows yet, and a tool that runs at the provider."""
        yield self.event("weather.report", sky="blue")
        item = {"id": "ws_1", "type": "web_search_call", "status": "completed", "action": {"type": "search"}}
        yield self._added(item)
        yield self.event("response.mcp_call_arguments.delta", item_id="ws_1", output_index=0, delta='{"a": 1}')
        yield self.event("response.function_call_arguments.delta", item_id="ws_1", output_index=0, delta='{"a": 1}')
        yield self._done(item)

    def _added(self, item: _Item) -> bytes:
        return self.event("response.output_item.added", output_index=len(self._output), item=item)

    def _done(self, item: _Item) -> bytes:
        done = self.event("response.output_item.done", output_index=len(self._output), item=item)
        self._output.append(item)
        return done

    def _logprobs(self, word: str) -> list[dict[str, Any]]:
        if not self._wants("message.output_text.logprobs"):
            return []
        token = {"token": word, "logprob": -0.5, "bytes": list(word.encode())}
        others = [{"token": f"{n}", "logprob": -1.0 - n} for n in range(self._body.get("top_logprobs", 0))]
        return [{**token, "top_logprobs": others}]

    def _wants(self, what: str) -> bool:
        return what in self._body.get("include", ())


def _words(body: dict[str, Any]) -> list[str]:
    return [f" {word}" for word in answer_for(body).split(" ")]


def whole_answer(body: dict[str, Any]) -> dict[str, Any]:
    """Return an answer that is no stream."""
    stream = _Stream(body)
    _ = list(stream.message(_words(body), pieces=False))
    return stream.response("completed", told=True)


def refusal(mode: str, argument: str, body: dict[str, Any], headers: Mapping[str, str]) -> web.Response | None:
    """Return the answer of a model that gives none, and to what the API would refuse."""
    given = fake_openai.refusal(mode, argument, body)
    if given is not None:
        return given
    fault = fault_of(body, headers)
    error = {"message": fault, "type": "invalid_request_error", "param": None, "code": None}
    return web.json_response({"error": error}, status=400) if fault else None


def fault_of(body: dict[str, Any], headers: Mapping[str, str]) -> str:
    """Return what the API would refuse about a request, empty if nothing."""
    if "authorization" not in {name.lower() for name in headers}:
        return "a credential is needed"
    if unknown := body.keys() - _FIELDS:
        return f"unknown parameters: {sorted(unknown)}"
    if body.get("store") is not False:
        return "store must be false: nothing of the mesh's is to be kept"
    waiting: set[str] = set()
    for item in body["input"]:
        kind = item.get("type")
        if kind == "message":
            if fault := _message_fault(item):
                return fault
        elif kind == "function_call":
            waiting.add(item["call_id"])
        elif kind == "function_call_output":
            if item["call_id"] not in waiting:
                return "no tool call was found for this output"
            waiting.discard(item["call_id"])
        elif kind != "reasoning" or item["encrypted_content"] != KEPT or not item["id"].startswith("rs_"):
            return "an item is unknown, or is not what was given"
    if waiting:
        return "no tool output was found for a call"
    if any(tool["type"] != "function" or not tool["name"] for tool in body.get("tools", ())):
        return "tools must be functions"
    return ""


def _message_fault(item: _Item) -> str:
    if item["role"] not in ("system", "developer", "user", "assistant"):
        return "a message has a role that is unknown"
    parts = item["content"] if isinstance(item["content"], list) else []
    if not item["content"] or any(part["type"] not in _PARTS for part in parts):
        return "a message is empty, or holds a part that it can't hold"
    return ""
