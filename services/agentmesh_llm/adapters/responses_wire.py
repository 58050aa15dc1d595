"""Writes questions as requests of OpenAI's Responses API and reads its events, apart from how the bytes travel."""

from typing import Any

import orjson

from agentmesh_llm.adapters import openai_logprobs, responses_errors, responses_items
from agentmesh_llm.adapters import provider_errors as errors
from agentmesh_llm.adapters.json_values import count_of, model_of, text_of
from agentmesh_llm.adapters.openai_steering import effort_of
from agentmesh_llm.adapters.openai_wire import DONE
from agentmesh_llm.domain import (
    Delta,
    Finish,
    FinishReason,
    Question,
    Reasoning,
    ReasoningDelta,
    Sampling,
    TextDelta,
    Thought,
    ToolCallDelta,
    ToolMode,
    Usage,
)

# Families that never think, and refuse to be asked for their thoughts.
_THOUGHTLESS = ("gpt-3", "gpt-4", "chatgpt-4")
_CUT_SHORT = {"max_output_tokens": FinishReason.LENGTH, "content_filter": FinishReason.CONTENT_FILTER}
# Without a form here; the answer would be another one. A seed is only ever a wish, and goes unfulfilled.
_FORMLESS = ("stop", "frequency_penalty", "presence_penalty", "top_k")


def question_body(question: Question) -> bytes:
    """Write a question as the body of a streaming response; raise InvalidRequest for what the API has no form for.

    The provider is to keep nothing: what the model thought comes encrypted, to be shown again with the next turn.
    """
    sampling = question.sampling
    _refuse_formless(sampling)
    include = [] if question.model.startswith(_THOUGHTLESS) else ["reasoning.encrypted_content"]
    if question.top_logprobs is not None:
        include.append("message.output_text.logprobs")
    body: dict[str, Any] = {
        "model": question.model,
        "input": responses_items.items(question.messages),
        "stream": True,
        "store": False,
        "include": include,
    }
    if question.tools:
        body["tools"] = [
            {
                "type": "function",
                "name": tool.name,
                "description": tool.description,
                "parameters": tool.parameters,
                **({} if tool.strict is None else {"strict": tool.strict}),
            }
            for tool in question.tools
        ]
        named = question.tool_mode is ToolMode.NAMED
        choice = {"type": "function", "name": question.tool_name} if named else question.tool_mode.value
        body["tool_choice"] = choice
    optional = {
        "text": _text_config(question),
        "reasoning": _reasoning(question.reasoning),
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "max_output_tokens": sampling.max_output_tokens or None,
        "parallel_tool_calls": question.parallel_tool_calls if question.tools else None,
        "top_logprobs": question.top_logprobs or None,
        "prompt_cache_key": question.prompt_cache_key or None,
    }
    body.update({key: value for key, value in optional.items() if value is not None})
    return orjson.dumps(body)


def _refuse_formless(sampling: Sampling) -> None:
    wanted = [name for name in _FORMLESS if getattr(sampling, name) not in (None, ())]
    if wanted:
        raise errors.not_here(f"sampling.{wanted[0]}", "the Responses API has no form for this: leave it out")


def _text_config(question: Question) -> dict[str, Any] | None:
    wanted = question.response_format
    if wanted is None:
        return None
    if wanted.schema is None:
        return {"format": {"type": "json_object"}}
    named = {"type": "json_schema", "name": wanted.name or "answer"}
    return {"format": {**named, "schema": wanted.schema, "strict": wanted.strict}}


def _reasoning(wanted: Reasoning | None) -> dict[str, Any] | None:
    effort = effort_of(wanted)
    asked = {"effort": effort} if effort is not None else {}
    return {**asked, **({"summary": "auto"} if wanted is not None and wanted.shown else {})} or None


class ResponseReader:
    """Turns the events of one answer into deltas and knows, in the end, whether it was whole."""

    def __init__(self) -> None:
        self.whole = False
        self._model = ""
        self._reason: FinishReason | None = None
        self._usage = Usage()
        self._calls: dict[int, int] = {}  # numbers of calls, by their places in the output
        self._told: set[tuple[int, str]] = set()  # places whose words, arguments or thoughts came in pieces

    def read(self, data: bytes) -> list[Delta]:
        """Return the deltas of one event; raise the error that it reports, or Unavailable if it is no event."""
        if data == DONE:
            return []  # some servers say it besides; it is no event of this API's
        try:
            event = orjson.loads(data)
            kind = event.get("type")
            if kind == "error" or event.get("error") is not None:
                raise responses_errors.event_error(event.get("error") or event)
            if kind in ("response.created", "response.in_progress"):
                self._model = model_of(event["response"].get("model"))
            elif kind in ("response.completed", "response.incomplete", "response.failed"):
                self._end(kind, event["response"])
            elif kind in _PIECES:
                return self._piece(_PIECES[kind], event)
            elif kind == "response.output_item.added":
                return self._added(event["output_index"], event["item"])
            elif kind == "response.output_item.done":
                return self._done(event["output_index"], event["item"])
            elif kind == "response.reasoning_summary_part.added" and event["summary_index"]:
                return [ReasoningDelta("\n\n")]
            # Others repeat what was said, tell of the provider's own tools, or are younger than this code.
            return []
        except (AttributeError, KeyError, TypeError, ValueError):
            raise errors.garbage() from None

    def finish(self) -> list[Delta]:
        """Return the end of the answer, when its marker has come; raise Unavailable if it gave no reason."""
        if self._reason is None:
            raise errors.interrupted()
        return [self._usage, Finish(self._reason, self._model)]

    def _piece(self, what: str, event: dict[str, Any]) -> list[Delta]:
        place, text = event["output_index"], text_of(event["delta"])
        if what == "arguments" and place not in self._calls:
            return []  # of a tool that runs at the provider
        self._told.add((place, what))
        if what == "text":
            likely = openai_logprobs.deltas_of({"content": event.get("logprobs")})
            said: list[Delta] = [TextDelta(text)] if text else []
            return [*said, *likely]
        if not text:
            return []
        return [ToolCallDelta(self._calls[place], arguments=text) if what == "arguments" else ReasoningDelta(text)]

    def _added(self, place: int, item: dict[str, Any]) -> list[Delta]:
        if item.get("type") != "function_call":
            return []
        number = self._calls[place] = len(self._calls)
        return [ToolCallDelta(number, text_of(item["call_id"]), text_of(item["name"]))]

    def _done(self, place: int, item: dict[str, Any]) -> list[Delta]:
        """Return what an item holds that did not come in pieces, as some servers send it."""
        kind = item.get("type")
        deltas: list[Delta] = []
        if kind == "function_call":
            deltas = self._added(place, item) if place not in self._calls else []
            if (place, "arguments") not in self._told and (arguments := text_of(item.get("arguments") or "")):
                deltas.append(ToolCallDelta(self._calls[place], arguments=arguments))
        elif kind == "message" and (place, "text") not in self._told:
            deltas += [TextDelta(text) for text in map(_text_of_part, item.get("content") or ()) if text]
        elif kind == "reasoning":
            told = item.get("summary") or item.get("content") or ()
            if (place, "reasoning") not in self._told and (text := "\n\n".join(map(_text_of_part, told))):
                deltas.append(ReasoningDelta(text))
            if kept := item.get("encrypted_content"):
                deltas.append(Thought(redacted=text_of(kept), id=text_of(item.get("id") or "")))
        return deltas

    def _end(self, kind: str, response: dict[str, Any]) -> None:
        if kind == "response.failed":
            raise responses_errors.event_error(response.get("error"))
        self.whole = True
        self._model = model_of(response.get("model")) or self._model
        self._usage = read_usage(response.get("usage"))
        if kind == "response.completed":
            self._reason = FinishReason.TOOL_CALLS if self._calls else FinishReason.STOP
        elif reason := (response.get("incomplete_details") or {}).get("reason"):
            self._reason = _CUT_SHORT.get(text_of(reason), FinishReason.UNKNOWN)


_PIECES = {
    "response.output_text.delta": "text",
    "response.refusal.delta": "text",
    "response.reasoning_text.delta": "reasoning",
    "response.reasoning_summary_text.delta": "reasoning",
    "response.function_call_arguments.delta": "arguments",
}


def read_usage(usage: Any) -> Usage:
    """Read token counts; what isn't a count is 0."""
    if not isinstance(usage, dict):
        return Usage()
    taken, given = usage.get("input_tokens_details"), usage.get("output_tokens_details")
    taken, given = (details if isinstance(details, dict) else {} for details in (taken, given))
    return Usage(
        count_of(usage.get("input_tokens")),
        count_of(usage.get("output_tokens")),
        count_of(taken.get("cached_tokens")),
        count_of(taken.get("cache_write_tokens")),
        count_of(given.get("reasoning_tokens")),
    )


def _text_of_part(part: dict[str, Any]) -> str:
    return text_of(part.get("text") or part.get("refusal") or "")
