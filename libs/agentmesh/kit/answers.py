"""Puts a model's answer together from its pieces, wherever somebody wants it whole."""

from collections.abc import Iterable
from typing import Final

from agentmesh.api.llm.v1 import llm_service_pb2 as pb

NOT_ASKED_FOR: Final = (pb.CACHE_OUTCOME_HIT, pb.CACHE_OUTCOME_COALESCED)
"""Outcomes of answers for which no call was made."""


class AnswerBuilder:
    """Takes deltas in their order; whole once the Finish has come, which is the last one."""

    def __init__(self) -> None:
        self._text: list[str] = []
        self._reasoning: list[str] = []
        self._thinking: list[str] = []  # since the last thought ended
        self._calls: dict[int, list[pb.ToolCallDelta]] = {}
        self._response = pb.GenerateResponse()
        self.finished = False

    def add(self, delta: pb.Delta) -> None:
        """Take the next piece in."""
        kind = delta.WhichOneof("kind")
        if kind == "text":
            self._text.append(delta.text)
        elif kind == "reasoning":
            self._reasoning.append(delta.reasoning)
            self._thinking.append(delta.reasoning)
        elif kind == "thought":
            self._end_thought(delta.thought)
        elif kind == "logprobs":
            self._response.logprobs.extend(delta.logprobs.tokens)
        elif kind == "tool_call":
            self._calls.setdefault(delta.tool_call.index, []).append(delta.tool_call)
        elif kind == "usage":
            self._response.usage.CopyFrom(delta.usage)
        elif kind == "finish":
            self.finished = True
            response, end = self._response, delta.finish
            response.finish_reason, response.model, response.provider = end.reason, end.model, end.provider
            response.joined, response.cache = end.joined, end.cache

    def build(self) -> pb.GenerateResponse:
        """Return the whole answer; call it once."""
        message = self._response.message
        message.role = pb.CHAT_ROLE_ASSISTANT
        if self._text:
            message.parts.add(text="".join(self._text))
        message.tool_calls.extend(_tool_use(self._calls[index]) for index in sorted(self._calls))
        self._response.reasoning = "".join(self._reasoning)
        return self._response

    def _end_thought(self, end: pb.Thought) -> None:
        thought = self._response.message.thoughts.add()
        thought.CopyFrom(end)
        thought.text = "".join(self._thinking) or end.text
        self._thinking.clear()


def fold(deltas: Iterable[pb.Delta]) -> pb.GenerateResponse:
    """Return the answer that its deltas make."""
    builder = AnswerBuilder()
    for delta in deltas:
        builder.add(delta)
    return builder.build()


def _tool_use(pieces: list[pb.ToolCallDelta]) -> pb.ToolUse:
    return pb.ToolUse(
        id=next((piece.id for piece in pieces if piece.id), ""),
        name=next((piece.name for piece in pieces if piece.name), ""),
        arguments="".join(piece.arguments for piece in pieces),
    )
