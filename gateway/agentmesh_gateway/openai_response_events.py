"""Writes a streamed answer as the events of OpenAI's Responses API: numbered, each item begun, grown and done."""

from dataclasses import dataclass, field
from typing import Any

from agentmesh.api.llm.v1 import llm_service_pb2 as pb
from agentmesh.api.types.v1 import types_pb2
from agentmesh.kit.errors import MeshError
from agentmesh_gateway import openai_response_answers as written
from agentmesh_gateway import openai_response_problems
from agentmesh_gateway.openai_response_answers import COMPLETED, FAILED, IN_PROGRESS, INCOMPLETE, JsonObject
from agentmesh_gateway.openai_response_items import sealed
from agentmesh_gateway.openai_responses import ResponsesRequest, wants_logprobs
from agentmesh_gateway.sse import on_one_line


@dataclass(slots=True)
class _Item:
    """One item of the output so far; `kind` is the prefix of its id."""

    kind: str
    index: int
    id: str
    pieces: list[str] = field(default_factory=list)
    logprobs: list[JsonObject] = field(default_factory=list)
    call_id: str = ""
    name: str = ""
    kept: str | None = None
    done: bool = False

    @property
    def text(self) -> str:
        return "".join(self.pieces)

    def shown(self, status: str) -> JsonObject:
        """Return the item with all that it holds."""
        if self.kind == "msg":
            return written.message_item(self.id, self.text, self.logprobs, status)
        if self.kind == "rs":
            return written.reasoning_item(self.id, self.text, self.kept, status)
        return written.call_item(self.id, self.call_id, self.name, self.text, status)


class ResponseEvents:
    """One streamed answer. Words and thoughts are over when something else begins, calls at the end.

    An answer that breaks off ends with `response.failed`, and with an `error` event, at which OpenAI's libraries
    raise; `response.completed` or `response.incomplete` come only after whole ones.
    """

    heartbeat = b": still here\n\n"

    def __init__(self, request: ResponsesRequest) -> None:
        self._frame = written.ResponseFrame(request)
        self._number = 0
        self._items: list[_Item] = []
        self._open: _Item | None = None
        self._calls: dict[int, _Item] = {}
        self._tells_logprobs = wants_logprobs(request)
        self._held: str | None = None  # words whose logprobs may be about to come
        self._usage = types_pb2.Usage()
        self._reason = pb.FINISH_REASON_UNSPECIFIED

    def opening(self) -> bytes:
        """Write that the response is under way."""
        response = self._frame.response(IN_PROGRESS)
        return self._event("response.created", response=response) + self._event(
            "response.in_progress", response=response
        )

    def piece(self, delta: pb.Delta) -> bytes:
        """Write a piece; usage and the reason are kept for the end."""
        kind = delta.WhichOneof("kind")
        if kind == "text":
            return self._text(delta.text)
        if kind == "logprobs":
            return self._say(self._held or "", written.logprobs_of(delta.logprobs.tokens))
        if kind == "reasoning":
            return self._reasoning(delta.reasoning)
        if kind == "thought":
            return self._thought(delta.thought)
        if kind == "tool_call":
            return self._tool_call(delta.tool_call)
        if kind == "usage":
            self._usage = delta.usage
        elif kind == "finish":
            self._reason = delta.finish.reason
        return b""

    def ending(self) -> bytes:
        """Write the end of what is open, and the whole response."""
        status = written.status_of(self._reason)
        output, events = [], [self._release()]
        for item in self._items:
            item_status = status if item is self._items[-1] else COMPLETED
            if not item.done:
                events.append(self._done(item, item_status))
            output.append(item.shown(item_status))
        response = self._frame.response(status, output, usage=self._usage, reason=self._reason)
        return b"".join(events) + self._event(f"response.{status}", response=response)

    def error(self, error: MeshError) -> bytes:
        """Write why the answer broke off, and what there is of it."""
        told = openai_response_problems.body_of(error)["error"]
        released = self._release()
        output = [item.shown(COMPLETED if item.done else INCOMPLETE) for item in self._items]
        reason = {"code": openai_response_problems.failure_of(error), "message": told["message"]}
        failed = self._event("response.failed", response=self._frame.response(FAILED, output, error=reason))
        return (
            released
            + failed
            + self._event("error", **{key: told[key] for key in ("code", "message", "param")}, error=told)
        )

    def _text(self, text: str) -> bytes:
        events = self._release()
        if self._tells_logprobs:
            self._held = text
            return events
        return events + self._say(text, [])

    def _release(self) -> bytes:
        """Write the words that are held back, though nothing came to be told of them."""
        return b"" if self._held is None else self._say(self._held, [])

    def _say(self, text: str, likely: list[JsonObject]) -> bytes:
        self._held = None
        item, events = self._at("msg")
        item.pieces.append(text)
        item.logprobs += likely
        return events + self._event("response.output_text.delta", **_content(item), delta=text, logprobs=likely)

    def _reasoning(self, text: str) -> bytes:
        item, events = self._at("rs")
        if not item.pieces:
            part = written.summary_part("")
            events += self._event("response.reasoning_summary_part.added", **_summary(item), part=part)
        item.pieces.append(text)
        return events + self._event("response.reasoning_summary_text.delta", **_summary(item), delta=text)

    def _thought(self, thought: pb.Thought) -> bytes:
        item, events = self._at("rs")
        if thought.text and not item.pieces:
            events += self._reasoning(thought.text)
        item.kept = sealed(thought)
        return events + self._close()

    def _tool_call(self, call: pb.ToolCallDelta) -> bytes:
        item, events = self._calls.get(call.index), b""
        if item is None:
            events = self._close()
            item = self._calls[call.index] = self._begin("fc")
            item.call_id, item.name = call.id or written.new_id("call"), call.name
            events += self._added(item)
        if not call.arguments:
            return events
        item.pieces.append(call.arguments)
        return events + self._event("response.function_call_arguments.delta", **_place(item), delta=call.arguments)

    def _at(self, kind: str) -> tuple[_Item, bytes]:
        """Go to the item of words or thoughts that is open, or begin one and write that."""
        if self._open is not None and self._open.kind == kind:
            return self._open, b""
        events = self._close()
        item = self._open = self._begin(kind)
        return item, events + self._added(item)

    def _begin(self, kind: str) -> _Item:
        item = _Item(kind, len(self._items), written.new_id(kind))
        self._items.append(item)
        return item

    def _added(self, item: _Item) -> bytes:
        shown = item.shown(IN_PROGRESS)
        if item.kind != "msg":
            return self._event("response.output_item.added", output_index=item.index, item=shown)
        empty = written.message_item(item.id, None, status=IN_PROGRESS)
        begun = self._event("response.output_item.added", output_index=item.index, item=empty)
        return begun + self._event("response.content_part.added", **_content(item), part=written.text_part(""))

    def _close(self) -> bytes:
        released = self._release()
        item, self._open = self._open, None
        return released if item is None else released + self._done(item, COMPLETED)

    def _done(self, item: _Item, status: str) -> bytes:
        """Write the end of an item, all of its text again, as the API does."""
        item.done = True
        text = item.text
        events = b""
        if item.kind == "fc":
            said = {"name": item.name, "arguments": text}
            events = self._event("response.function_call_arguments.done", **_place(item), **said)
        elif item.kind == "msg":
            events = self._event("response.output_text.done", **_content(item), text=text, logprobs=item.logprobs)
            part = written.text_part(text, item.logprobs)
            events += self._event("response.content_part.done", **_content(item), part=part)
        elif text:
            events = self._event("response.reasoning_summary_text.done", **_summary(item), text=text)
            part = written.summary_part(text)
            events += self._event("response.reasoning_summary_part.done", **_summary(item), part=part)
        return events + self._event("response.output_item.done", output_index=item.index, item=item.shown(status))

    def _event(self, kind: str, **fields: Any) -> bytes:
        data = on_one_line({"type": kind, "sequence_number": self._number, **fields})
        self._number += 1
        return b"event: %b\ndata: %b\n\n" % (kind.encode(), data)


def _place(item: _Item) -> JsonObject:
    return {"item_id": item.id, "output_index": item.index}


def _content(item: _Item) -> JsonObject:
    return {**_place(item), "content_index": 0}


def _summary(item: _Item) -> JsonObject:
    return {**_place(item), "summary_index": 0}
