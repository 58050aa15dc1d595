"""Writes answers as OpenAI's `response` objects, and the items that they are made of."""

import time
import uuid
from collections.abc import Iterable, Sequence
from typing import Any

from agentmesh.api.llm.v1 import llm_service_pb2 as pb
from agentmesh.api.types.v1 import types_pb2
from agentmesh_gateway.openai_answers import text_of
from agentmesh_gateway.openai_response_items import sealed
from agentmesh_gateway.openai_responses import ResponsesRequest

JsonObject = dict[str, Any]
COMPLETED, INCOMPLETE, IN_PROGRESS, FAILED = "completed", "incomplete", "in_progress", "failed"

_CUT_SHORT = {
    pb.FINISH_REASON_LENGTH: "max_output_tokens",
    pb.FINISH_REASON_CONTENT_FILTER: "content_filter",
}


class ResponseFrame:
    """What every copy of one response says: its id, its time, and what was asked."""

    def __init__(self, request: ResponsesRequest) -> None:
        self._said: JsonObject = {
            "id": new_id("resp"),
            "object": "response",
            "created_at": int(time.time()),
            "model": request.model,
            "background": False,
            "instructions": request.instructions,
            "max_output_tokens": request.max_output_tokens,
            "max_tool_calls": None,
            "metadata": request.metadata or {},
            "parallel_tool_calls": request.parallel_tool_calls is not False,
            "previous_response_id": None,
            "prompt_cache_key": request.prompt_cache_key,
            "reasoning": {"effort": request.reasoning.effort if request.reasoning else None, "summary": None},
            # Whatever was asked: there is nothing to be found again under this id.
            "store": False,
            "temperature": request.temperature,
            "text": {"format": _format_of(request)},
            "tool_choice": _choice_of(request),
            "tools": [tool.model_dump() for tool in request.tools or ()],
            "top_logprobs": request.top_logprobs or 0,
            "top_p": request.top_p,
            "truncation": "disabled",
            "user": None,
        }

    def response(
        self,
        status: str,
        output: Sequence[JsonObject] = (),
        *,
        usage: types_pb2.Usage | None = None,
        reason: "pb.FinishReason.ValueType" = pb.FINISH_REASON_UNSPECIFIED,
        error: JsonObject | None = None,
    ) -> JsonObject:
        """Return the response as it is now."""
        cut_short = {"reason": _CUT_SHORT[reason]} if status == INCOMPLETE else None
        return {
            **self._said,
            "status": status,
            "completed_at": int(time.time()) if status == COMPLETED else None,
            "error": error,
            "incomplete_details": cut_short,
            "output": output,
            "usage": usage_of(usage) if usage is not None else None,
        }


def response_of(answer: pb.GenerateResponse, request: ResponsesRequest) -> JsonObject:
    """Return a whole answer: what was thought, what was said, and which tools are called."""
    status = status_of(answer.finish_reason)
    message = answer.message
    output = [reasoning_item(new_id("rs"), thought.text, sealed(thought)) for thought in message.thoughts]
    if not output and answer.reasoning:
        output.append(reasoning_item(new_id("rs"), answer.reasoning))
    if message.parts:
        logprobs = logprobs_of(answer.logprobs)
        output.append(message_item(new_id("msg"), text_of(message.parts), logprobs))
    output += [call_item(new_id("fc"), call.id, call.name, call.arguments) for call in message.tool_calls]
    if output:
        output[-1]["status"] = status
    return ResponseFrame(request).response(status, output, usage=answer.usage, reason=answer.finish_reason)


def status_of(reason: "pb.FinishReason.ValueType") -> str:
    """Return the status of an answer that ended for this reason, and of its last item."""
    return INCOMPLETE if reason in _CUT_SHORT else COMPLETED


def usage_of(usage: types_pb2.Usage) -> JsonObject:
    """Return what a call consumed."""
    return {
        "input_tokens": usage.input_tokens,
        "input_tokens_details": {
            "cached_tokens": usage.cached_input_tokens,
            "cache_write_tokens": usage.cache_write_tokens,
        },
        "output_tokens": usage.output_tokens,
        "output_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
        "total_tokens": usage.input_tokens + usage.output_tokens,
    }


def reasoning_item(item_id: str, text: str, kept: str | None = None, status: str = COMPLETED) -> JsonObject:
    """Return what was thought; `kept` is what the next request has to bring back."""
    summary = [summary_part(text)] if text else []
    return {"id": item_id, "type": "reasoning", "summary": summary, "encrypted_content": kept, "status": status}


def summary_part(text: str) -> JsonObject:
    """Return what is told of a thought: the API has no other form for what its own models tell."""
    return {"type": "summary_text", "text": text}


def message_item(
    item_id: str, text: str | None, logprobs: Sequence[JsonObject] = (), status: str = COMPLETED
) -> JsonObject:
    """Return what was said, without content if it is None."""
    content = [] if text is None else [text_part(text, logprobs)]
    return {"id": item_id, "type": "message", "role": "assistant", "status": status, "content": content}


def text_part(text: str, logprobs: Sequence[JsonObject] = ()) -> JsonObject:
    """Return the content of a message."""
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": logprobs}


def call_item(item_id: str, call_id: str, name: str, arguments: str, status: str = COMPLETED) -> JsonObject:
    """Return the call of a tool; one without an id gets one."""
    place = {"id": item_id, "type": "function_call", "call_id": call_id or new_id("call")}
    return {**place, "name": name, "arguments": arguments, "status": status}


def logprobs_of(tokens: Iterable[pb.TokenLogprob]) -> list[JsonObject]:
    """Return how likely tokens were, each with the others that were likely in its place."""
    return [{**_logprob(token), "top_logprobs": list(map(_logprob, token.alternatives))} for token in tokens]


def new_id(kind: str) -> str:
    """Return a new id of a kind of thing."""
    return f"{kind}_{uuid.uuid4().hex}"


def _logprob(token: pb.TokenLogprob) -> JsonObject:
    return {"token": token.token, "logprob": token.logprob, "bytes": list(token.utf8 or token.token.encode())}


def _format_of(request: ResponsesRequest) -> JsonObject:
    wanted = request.text.format if request.text else None
    if wanted is None or wanted.type != "json_schema":
        return {"type": wanted.type if wanted else "text"}
    return {"type": wanted.type, "name": wanted.name, "schema": wanted.schema_ or {}, "strict": bool(wanted.strict)}


def _choice_of(request: ResponsesRequest) -> Any:
    choice = request.tool_choice
    if choice is None:
        return "auto"
    return {"type": "function", "name": choice.name} if choice.type == "function" else choice.type
