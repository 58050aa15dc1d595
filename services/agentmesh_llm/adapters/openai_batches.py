"""Writes documents and prompts as OpenAI-compatible servers read them, and reads what they make of them."""

import math
from typing import Any

import orjson

from agentmesh_llm.adapters import provider_errors as errors
from agentmesh_llm.adapters.json_values import count_of, model_of, text_of
from agentmesh_llm.adapters.openai_wire import read_usage
from agentmesh_llm.domain import Batch, Completion, FinishReason, PromptsQuestion, RerankQuestion, Usage

_REASONS = {
    "stop": FinishReason.STOP,
    "length": FinishReason.LENGTH,
    "content_filter": FinishReason.CONTENT_FILTER,
}
_BROKEN = (TypeError, ValueError, AttributeError, KeyError, IndexError)


def rerank_body(question: RerankQuestion) -> bytes:
    """Write documents as the body of a rerank request, in the form that Jina, Cohere and vLLM share."""
    body = {
        "model": question.model,
        "query": question.query,
        "documents": question.documents,
        # Some servers tell only the best few unless they are asked.
        "top_n": len(question.documents),
    }
    return orjson.dumps(body)


def read_scores(body: bytes, expected: int) -> Batch[float]:
    """Return a score for each document, in order; raise Unavailable if one is missing."""
    try:
        answer = orjson.loads(body)
        scores = [math.nan] * expected
        for result in answer["results"]:
            scores[_index(result["index"])] = float(result["relevance_score"])
        batch = Batch(scores, _rerank_usage(answer), model_of(answer.get("model")))
    except _BROKEN:
        raise errors.garbage() from None
    if not all(map(math.isfinite, scores)):
        raise errors.garbage()
    return batch


def prompts_body(question: PromptsQuestion) -> bytes:
    """Write prompts as the body of a legacy completion, which takes several."""
    sampling = question.sampling
    optional = {
        "max_tokens": sampling.max_output_tokens or None,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "top_k": sampling.top_k,
        "stop": list(sampling.stop) or None,
        "seed": sampling.seed,
        "frequency_penalty": sampling.frequency_penalty,
        "presence_penalty": sampling.presence_penalty,
    }
    body: dict[str, Any] = {"model": question.model, "prompt": question.prompts}
    body.update({key: value for key, value in optional.items() if value is not None})
    return orjson.dumps(body)


def read_completions(body: bytes, expected: int) -> Batch[Completion]:
    """Return how each prompt goes on, in order; raise Unavailable if one is missing or has no end."""
    try:
        answer = orjson.loads(body)
        written: list[Completion | None] = [None] * expected
        for choice in answer["choices"]:
            reason = _REASONS.get(text_of(choice["finish_reason"]))
            if reason is None:
                raise errors.interrupted()
            written[_index(choice["index"])] = Completion(text_of(choice["text"]), reason)
        usage = read_usage(answer.get("usage") or {})
        model = model_of(answer.get("model"))
    except _BROKEN:
        raise errors.garbage() from None
    whole = [one for one in written if one is not None]
    if len(whole) < expected:
        raise errors.garbage()
    return Batch(whole, usage, model)


def _index(value: Any) -> int:
    if type(value) is not int or value < 0:
        raise TypeError
    return value


def _rerank_usage(answer: dict[str, Any]) -> Usage:
    """Read the tokens, which each vendor tells in a place of its own."""
    usage = answer.get("usage")
    if isinstance(usage, dict):
        return Usage(count_of(usage.get("prompt_tokens")) or count_of(usage.get("total_tokens")))
    meta = answer.get("meta")
    told = [meta.get(name) for name in ("tokens", "billed_units")] if isinstance(meta, dict) else []
    counts = [count_of(one.get("input_tokens")) for one in told if isinstance(one, dict)]
    return Usage(next(filter(None, counts), 0))
