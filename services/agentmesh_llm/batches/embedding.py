"""What embedding is for the micro-batcher: texts with an equal number of dimensions share a call."""

from collections.abc import Sequence

from agentmesh.kit.floats import packed, unpacked
from agentmesh.kit.semantic_names import EMBEDDINGS
from agentmesh_llm import counting
from agentmesh_llm.answers.cache_keys import CacheKey, vector_keys
from agentmesh_llm.batches.shares import Weight
from agentmesh_llm.domain import Batch, EmbedQuestion
from agentmesh_llm.ports import Provider
from agentmesh_llm.routing.catalogue import Served


class Embedding:
    """Makes vectors of texts; the terms are their length."""

    kind = "vector"
    operation = EMBEDDINGS

    async def ask(self, provider: Provider, model: str, terms: int, texts: Sequence[str]) -> Batch[list[float]]:
        """See Work."""
        vectors = await provider.embed(EmbedQuestion(model, tuple(texts), terms))
        return Batch(vectors.values, vectors.usage, vectors.model)

    def most(self, served: Served) -> int:
        """See Work."""
        return min(one.offer.embedding_batch for one in served.deployments)

    def weight(self, terms: int, text: str, value: list[float]) -> Weight:
        """See Work."""
        return counting.tokens_of_text(text), 0

    def keys(self, tenant: str, served: Served, terms: int, texts: Sequence[str]) -> list[CacheKey]:
        """See Work."""
        return vector_keys(tenant, served.model, terms, texts)

    def write(self, value: list[float]) -> bytes | None:
        """See Work."""
        return packed(value)

    def read(self, entry: bytes) -> list[float]:
        """See Work."""
        return unpacked(entry)
