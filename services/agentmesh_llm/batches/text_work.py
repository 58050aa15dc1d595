"""What the micro-batcher has to know about a kind of work on texts."""

from collections.abc import Awaitable, Hashable, Sequence
from typing import Protocol, TypeVar

from agentmesh_llm.answers.cache_keys import CacheKey
from agentmesh_llm.batches.shares import Weight
from agentmesh_llm.domain import Batch
from agentmesh_llm.ports import Provider
from agentmesh_llm.routing.catalogue import Served

V = TypeVar("V")
T_contra = TypeVar("T_contra", bound=Hashable, contravariant=True)


class Work(Protocol[T_contra, V]):
    """What is done with texts; `terms` are what those of one call must have in common."""

    kind: str
    """Names it in the cache's metrics."""
    operation: str
    """Names it in metrics and traces of calls."""

    def ask(self, provider: Provider, model: str, terms: T_contra, texts: Sequence[str]) -> Awaitable[Batch[V]]:
        """Call a provider."""

    def most(self, served: Served) -> int:
        """Return how many texts go into one call."""

    def weight(self, terms: T_contra, text: str, value: V) -> Weight:
        """Say how much of a call one text was."""

    def keys(self, tenant: str, served: Served, terms: T_contra, texts: Sequence[str]) -> list[CacheKey]:
        """Return where each text's value is kept."""

    def write(self, value: V) -> bytes | None:
        """Write a value for the cache; None for one that is not to be kept."""

    def read(self, entry: bytes) -> V:
        """Read a value from the cache."""
