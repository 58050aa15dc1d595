"""What an answer is cached under: everything that could change it, and always the tenant.

Every field of a request is named here as one that changes the answer or one that does not; a test walks the contract
and fails on a field that is in neither table.
"""

import hashlib
from collections.abc import Iterable
from functools import lru_cache
from typing import Final, NamedTuple

from agentmesh.api.llm.v1 import llm_service_pb2 as pb
from agentmesh_llm.domain import Model, Sampling

CHANGES_ANSWER: Final = frozenset(
    {
        "messages",
        "tools",
        "tool_choice",
        "response_format",
        "sampling",
        "parallel_tool_calls",
        "reasoning",
        "top_logprobs",
    },
)
"""Of a GenerateRequest; `model` enters as what it stands for."""
NOT_IN_ANSWER: Final = frozenset({"model", "idempotency_key", "cache", "fallbacks", "priority", "prompt_cache_key"})
CHANGES_VECTOR: Final = frozenset({"dimensions"})
"""Of an EmbedRequest; each of `inputs` has an entry of its own."""
NOT_IN_VECTOR: Final = frozenset({"model", "inputs", "cache"})
CHANGES_SCORE: Final = frozenset({"query"})
"""Of a RerankRequest; each of `documents` has an entry of its own."""
NOT_IN_SCORE: Final = frozenset({"model", "documents", "top_n", "cache"})
CHANGES_COMPLETION: Final = frozenset({"sampling"})
"""Of a CompletePromptsRequest; each of `prompts` has an entry of its own."""
NOT_IN_COMPLETION: Final = frozenset({"model", "prompts", "cache"})

_VERSION = b"1"  # of what is stored: entries of another one are never found
_DIGEST_BYTES = 20
_REMEMBERED, _SMALL_BYTES = 1024, 4096


class CacheKey(NamedTuple):
    """Where an entry lies. Tenant and model are apart, so that entries can be purged by them."""

    tenant: str
    model: str
    digest: bytes


def answer_key(tenant: str, model: Model, request: pb.GenerateRequest) -> CacheKey:
    """Return the key of a request's answer by a model."""
    written = request.SerializeToString(deterministic=True)
    # What is asked again and again mostly comes in the same words; with an idempotency key it doesn't.
    known = len(written) <= _SMALL_BYTES and not request.idempotency_key
    return (_small_answer_key if known else _answer_key)(tenant, model, written)


def _answer_key(tenant: str, model: Model, request: bytes) -> CacheKey:
    bare = pb.GenerateRequest.FromString(request)
    for name in NOT_IN_ANSWER:
        bare.ClearField(name)  # type: ignore[arg-type]
    return _key(tenant, model, b"answer", (bare.SerializeToString(deterministic=True),))


_small_answer_key = lru_cache(_REMEMBERED)(_answer_key)


def vector_keys(tenant: str, model: Model, dimensions: int, inputs: Iterable[str]) -> list[CacheKey]:
    """Return a key for each text."""
    size = str(dimensions).encode()
    return [_key(tenant, model, b"vector", (size, text.encode())) for text in inputs]


def score_keys(tenant: str, model: Model, query: str, documents: Iterable[str]) -> list[CacheKey]:
    """Return a key for each document."""
    return [_key(tenant, model, b"score", (query.encode(), document.encode())) for document in documents]


def completion_keys(tenant: str, model: Model, sampling: Sampling, prompts: Iterable[str]) -> list[CacheKey]:
    """Return a key for each prompt; every field of the sampling is in it."""
    how = repr(sampling).encode()
    return [_key(tenant, model, b"completion", (how, prompt.encode())) for prompt in prompts]


def _key(tenant: str, model: Model, kind: bytes, parts: Iterable[bytes]) -> CacheKey:
    digest = hashlib.blake2b(digest_size=_DIGEST_BYTES)
    for part in (_VERSION, kind, tenant.encode(), model.provider.encode(), model.name.encode(), *parts):
        # Lengths keep one part's end from being taken for the next one's beginning.
        digest.update(len(part).to_bytes(8, "big"))
        digest.update(part)
    return CacheKey(tenant, model.id, digest.digest())
