"""What the fake provider makes of documents and prompts; the same for the same text, whatever stands beside it."""

import hashlib
from typing import Any


def score_for(query: str, document: str) -> float:
    """Return how well a document fits."""
    digest = hashlib.sha256(f"{query}\0{document}".encode()).digest()
    return int.from_bytes(digest[:4], "big") / 2**32


def completion_for(prompt: str) -> str:
    """Return how a prompt goes on."""
    return f" {hashlib.sha256(prompt.encode()).hexdigest()[:8]} — and so on."


def scores(body: dict[str, Any]) -> dict[str, Any]:
    """Answer a rerank request, the best first; each document costs its words, and the query's once more."""
    query, documents = body["query"], body["documents"]
    results = [
        {"index": at, "relevance_score": score_for(query, document), "document": {"text": document}}
        for at, document in enumerate(documents)
    ]
    results.sort(key=lambda result: -result["relevance_score"])
    tokens = sum(len(text.split()) for document in documents for text in (query, document))
    if body["model"].startswith("cohere"):
        usage: dict[str, Any] = {"meta": {"tokens": {"input_tokens": tokens}, "billed_units": {"search_units": 1}}}
    else:
        usage = {"usage": {"total_tokens": tokens}}
    return {"id": "rerank-1", "model": "fake-1", "results": results[: body.get("top_n", len(results))], **usage}


def completions(body: dict[str, Any]) -> dict[str, Any]:
    """Answer a completion request, the last choice first: the order is the index's."""
    choices = [
        {"index": at, "text": completion_for(prompt), "logprobs": None, "finish_reason": "stop"}
        for at, prompt in enumerate(body["prompt"])
    ]
    into = sum(len(prompt.split()) for prompt in body["prompt"])
    out = sum(len(choice["text"].split()) for choice in choices)
    if body["model"] == "endless":
        choices[0]["finish_reason"] = None
    usage = {"prompt_tokens": into, "completion_tokens": out, "total_tokens": into + out}
    return {"id": "cmpl-1", "object": "text_completion", "model": "fake-1", "choices": choices[::-1], "usage": usage}
