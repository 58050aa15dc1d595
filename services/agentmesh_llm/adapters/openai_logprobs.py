"""Reads how likely the tokens of an answer were, as OpenAI's wire tells it."""

from typing import Any

from agentmesh_llm.adapters.json_values import text_of
from agentmesh_llm.domain import Delta, LogprobsDelta, TokenLogprob


def deltas_of(logprobs: dict[str, Any]) -> list[Delta]:
    """Return the tokens of a choice, of its text or its refusal; raise TypeError or ValueError for what is none."""
    entries = [*(logprobs.get("content") or ()), *(logprobs.get("refusal") or ())]
    return [LogprobsDelta(tuple(map(_token, entries)))] if entries else []


def _token(entry: dict[str, Any]) -> TokenLogprob:
    alternatives = tuple(map(_alone, entry.get("top_logprobs") or ()))
    return TokenLogprob(text_of(entry["token"]), _number(entry["logprob"]), _bytes(entry), alternatives)


def _alone(entry: dict[str, Any]) -> TokenLogprob:
    return TokenLogprob(text_of(entry["token"]), _number(entry["logprob"]), _bytes(entry))


def _bytes(entry: dict[str, Any]) -> bytes:
    numbers = entry.get("bytes") or []
    if not isinstance(numbers, list):
        raise TypeError
    return bytes(numbers)


def _number(value: Any) -> float:
    if type(value) not in (int, float):
        raise TypeError
    return float(value)
