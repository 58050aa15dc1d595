"""What the service needs from a provider of models, and from a cache."""

from collections.abc import AsyncGenerator, Sequence
from typing import Protocol

from agentmesh_llm.answers.cache_keys import CacheKey
from agentmesh_llm.domain import (
    Batch,
    Completion,
    Delta,
    EmbedQuestion,
    PromptsQuestion,
    Question,
    RerankQuestion,
    Vectors,
)


class Provider(Protocol):
    """Answers questions. The caller bounds every call in time; being cancelled or closed ends it at the far end.

    Errors are MeshErrors whose texts hold nothing that the provider or the caller said.
    """

    def stream(self, question: Question) -> AsyncGenerator[Sequence[Delta], None]:
        """Yield an answer's deltas as they come, those that came together together.

        A whole answer ends with one Usage and one Finish. One that breaks off raises Unavailable.
        """

    async def embed(self, question: EmbedQuestion) -> Vectors:
        """Return a vector for each text."""

    async def rerank(self, question: RerankQuestion) -> Batch[float]:
        """Return how well each document fits; the higher, the better."""

    async def complete(self, question: PromptsQuestion) -> Batch[Completion]:
        """Return how each text goes on."""

    async def aclose(self) -> None:
        """Let go of every connection."""


class CacheStore(Protocol):
    """Keeps entries for a while. It may forget any of them at any time; it never raises for what it can't do."""

    def near(self, key: CacheKey) -> bytes | None:
        """Return what this process holds, at once."""

    async def far(self, keys: Sequence[CacheKey]) -> list[bytes | None]:
        """Return what other processes may have kept, an entry for each key; within a fraction of a second."""

    def put(self, entries: Sequence[tuple[CacheKey, bytes, float]]) -> None:
        """Keep entries for so many seconds each; returns at once."""

    async def purge(self, tenant: str, model_pattern: str) -> int:
        """Forget a tenant's entries for models whose ids fit, `*` standing for any characters; return how many."""

    async def aclose(self) -> None:
        """Let go of every connection."""
