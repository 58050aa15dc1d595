"""What reranking is for the micro-batcher: documents that are held against an equal query share a call."""

import struct
from collections.abc import Sequence

from agentmesh.kit.semantic_names import RERANK
from agentmesh_llm import counting
from agentmesh_llm.answers.cache_keys import CacheKey, score_keys
from agentmesh_llm.batches.shares import Weight
from agentmesh_llm.domain import Batch, RerankQuestion
from agentmesh_llm.ports import Provider
from agentmesh_llm.routing.catalogue import Served

_SCORE = struct.Struct("<d")


class Reranking:
    """Scores documents, each by itself; the terms are the query."""

    kind = "score"
    operation = RERANK

    async def ask(self, provider: Provider, model: str, terms: str, texts: Sequence[str]) -> Batch[float]:
        """See Work."""
        return await provider.rerank(RerankQuestion(model, terms, tuple(texts)))

    def most(self, served: Served) -> int:
        """See Work."""
        return min(one.offer.rerank_batch for one in served.deployments)

    def weight(self, terms: str, text: str, value: float) -> Weight:
        """See Work; the model reads the query again with each document."""
        return counting.roughly(len(terms)) + counting.tokens_of_text(text), 0

    def keys(self, tenant: str, served: Served, terms: str, texts: Sequence[str]) -> list[CacheKey]:
        """See Work."""
        return score_keys(tenant, served.model, terms, texts)

    def write(self, value: float) -> bytes | None:
        """See Work."""
        return _SCORE.pack(value)

    def read(self, entry: bytes) -> float:
        """See Work."""
        return float(_SCORE.unpack(entry)[0])


def best(scores: Sequence[float], top_n: int) -> list[tuple[int, float]]:
    """Return the numbers and scores of the best `top_n` documents, or of all if 0, the best first."""
    ranked = sorted(enumerate(scores), key=lambda one: (-one[1], one[0]))
    return ranked[:top_n] if top_n else ranked
