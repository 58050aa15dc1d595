"""Asks Anthropic's models in their own language, at Anthropic or wherever else it is spoken."""

from collections.abc import AsyncGenerator, Sequence

from agentmesh.kit.errors import InvalidRequest
from agentmesh.kit.model_settings import Provider as ProviderSettings
from agentmesh_llm.adapters import anthropic_errors, anthropic_wire
from agentmesh_llm.adapters.anthropic_wire import EventReader
from agentmesh_llm.adapters.carriers import open_carrier
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

_VERSION = "2023-06-01"


class AnthropicProvider:
    """One server and one credential, with a connection pool of its own."""

    def __init__(self, settings: ProviderSettings) -> None:
        key = settings.api_key
        headers = {"anthropic-version": _VERSION, **({} if key is None else {"x-api-key": key.get_secret_value()})}
        self._carrier = open_carrier(settings, headers, anthropic_errors.refusal_of)

    def stream(self, question: Question) -> AsyncGenerator[Sequence[Delta], None]:
        """Stream a message; closing the generator closes the socket."""
        return self._carrier.stream("/messages", anthropic_wire.question_body(question), EventReader())

    async def embed(self, question: EmbedQuestion) -> Vectors:
        """Raise InvalidRequest: Anthropic has no embeddings."""
        raise InvalidRequest(
            "this provider makes no embeddings", violations=[("model", "belongs to a provider without embeddings")]
        )

    async def rerank(self, question: RerankQuestion) -> Batch[float]:
        """Raise InvalidRequest: Anthropic orders no documents."""
        raise InvalidRequest(
            "this provider orders no documents", violations=[("model", "belongs to a provider without reranking")]
        )

    async def complete(self, question: PromptsQuestion) -> Batch[Completion]:
        """Raise InvalidRequest: Anthropic takes conversations only."""
        raise InvalidRequest(
            "this provider takes conversations only",
            violations=[("model", "belongs to a provider without completions")],
        )

    async def aclose(self) -> None:
        """Close the pool."""
        await self._carrier.aclose()
