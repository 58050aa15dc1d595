"""Asks any server that speaks OpenAI's HTTP: the real one, Ollama, LM Studio, vLLM and many more."""

import asyncio
import base64
from collections.abc import AsyncGenerator, Sequence
from typing import Any

import orjson

from agentmesh.kit.floats import unpacked
from agentmesh.kit.model_settings import Provider as ProviderSettings
from agentmesh_llm.adapters import openai_batches, openai_errors, openai_wire, responses_errors, responses_wire
from agentmesh_llm.adapters import provider_errors as errors
from agentmesh_llm.adapters.carriers import open_carrier
from agentmesh_llm.adapters.json_values import model_of
from agentmesh_llm.adapters.openai_steering import dialect_of
from agentmesh_llm.adapters.openai_wire import ChunkReader
from agentmesh_llm.adapters.responses_wire import ResponseReader
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

_MAX_VECTORS_BYTES = 64 * 1024 * 1024
_MAX_TEXTS_BYTES = 16 * 1024 * 1024  # a server may say the documents again


class OpenAiCompatibleProvider:
    """One server and one credential, with a connection pool of its own."""

    def __init__(self, settings: ProviderSettings) -> None:
        assert settings.base_url is not None  # the settings demand it of this kind
        key = settings.api_key
        headers = {} if key is None else {"Authorization": f"Bearer {key.get_secret_value()}"}
        self._speaks_responses = settings.api == "responses"
        errors_of = responses_errors if self._speaks_responses else openai_errors
        self._carrier = open_carrier(settings, headers, errors_of.refusal_of)
        self._dialect = dialect_of(settings.base_url)

    def stream(self, question: Question) -> AsyncGenerator[Sequence[Delta], None]:
        """Stream a chat completion or a response; closing the generator closes the socket."""
        if self._speaks_responses:
            return self._carrier.stream("/responses", responses_wire.question_body(question), ResponseReader())
        body = openai_wire.question_body(question, self._dialect)
        return self._carrier.stream("/chat/completions", body, ChunkReader())

    async def embed(self, question: EmbedQuestion) -> Vectors:
        """Return a vector for each text."""
        body = await self._carrier.fetch("/embeddings", openai_wire.embed_body(question), _MAX_VECTORS_BYTES)
        # Megabytes of numbers would hold up every stream of the process.
        return await asyncio.to_thread(_read_vectors, body, len(question.inputs))

    async def rerank(self, question: RerankQuestion) -> Batch[float]:
        """Return how well each document fits."""
        body = await self._carrier.fetch("/rerank", openai_batches.rerank_body(question), _MAX_TEXTS_BYTES)
        return openai_batches.read_scores(body, len(question.documents))

    async def complete(self, question: PromptsQuestion) -> Batch[Completion]:
        """Return how each text goes on."""
        body = await self._carrier.fetch("/completions", openai_batches.prompts_body(question), _MAX_TEXTS_BYTES)
        return openai_batches.read_completions(body, len(question.prompts))

    async def aclose(self) -> None:
        """Close the pool."""
        await self._carrier.aclose()


def _read_vectors(body: bytes, expected: int) -> Vectors:
    try:
        answer = orjson.loads(body)
        values: list[list[float]] = [[] for _ in range(expected)]
        for position, entry in enumerate(answer["data"]):
            values[entry.get("index", position)] = _vector(entry["embedding"])
        model = model_of(answer.get("model"))
        usage = openai_wire.read_usage(answer.get("usage") or {})
    except (AttributeError, IndexError, KeyError, TypeError, ValueError):
        raise errors.garbage() from None
    if not all(values):
        raise errors.garbage()
    return Vectors(values, usage, model)


def _vector(value: Any) -> list[float]:
    if isinstance(value, str):
        return unpacked(base64.b64decode(value, validate=True))
    return [float(number) for number in value]
