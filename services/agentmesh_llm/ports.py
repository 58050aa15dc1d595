"""What the service needs from a provider of models."""

from collections.abc import AsyncGenerator, Sequence
from typing import Protocol

from agentmesh_llm.domain import Delta, EmbedQuestion, Question, Vectors


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

    async def aclose(self) -> None:
        """Let go of every connection."""
