"""What the llm service does: finds the model, starts or joins the call, counts what it consumed."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace

from agentmesh.kit import names, telemetry
from agentmesh.kit.errors import InvalidRequest, MeshError
from agentmesh_llm import counting
from agentmesh_llm.answer import Reader, SharedAnswer
from agentmesh_llm.catalogue import Catalogue, Served
from agentmesh_llm.domain import EmbedQuestion, Message, Model, Question, Usage, Vectors
from agentmesh_llm.joining import Joiner, JoinKey
from agentmesh_llm.settings import Bounds

# What fits into one message of the contract, with room for the numbers' frames.
_MAX_VECTOR_BYTES = names.MAX_MESSAGE_BYTES - 64 * 1024
_FLOAT_BYTES = 4

_calls = telemetry.counter(names.LLM_CALLS_TOTAL, "Calls to model providers", ("provider", "model", "status"))
_tokens = telemetry.counter(names.LLM_TOKENS_TOTAL, "Tokens that calls consumed", ("provider", "model", "kind"))
_joined = telemetry.counter(names.LLM_JOINED_TOTAL, "Calls answered by a call that was there already")


class ModelDesk:
    """Answers for every configured model."""

    def __init__(self, catalogue: Catalogue, bounds: Bounds) -> None:
        self.bounds = bounds
        self._catalogue = catalogue
        self._joiner = Joiner(bounds)

    def resolve(self, model_id: str) -> Served:
        """Return who answers questions to a model; raise NotFound or InvalidRequest."""
        return self._catalogue.resolve(model_id, embeddings=False)

    def ask(self, served: Served, question: Question, key: JoinKey | None, timeout_s: float) -> Reader:
        """Start the call within `timeout_s`, or join the one with the same key. Close the reader in the end."""
        named = _with_model(question, served)

        def count(answer: SharedAnswer) -> None:
            _count(served, answer.error, answer.usage)

        reader = self._joiner.open(
            key,
            lambda: served.offer.provider.stream(named),
            deadline=asyncio.get_running_loop().time() + timeout_s,
            on_end=count,
        )
        if reader.joined:
            _joined.inc()
        return reader

    async def cancel(self, tenant: str, idempotency_key: str) -> bool:
        """End a running call by its key; say whether there was one."""
        return await self._joiner.cancel(tenant, idempotency_key)

    async def embed(self, question: EmbedQuestion, timeout_s: float) -> tuple[Served, Vectors]:
        """Return vectors; raise InvalidRequest if they don't fit into one message."""
        served = self._catalogue.resolve(question.model, embeddings=True)
        _check_size(len(question.inputs), question.dimensions)
        named = EmbedQuestion(served.model.name, question.inputs, question.dimensions)
        error: Exception | None = None
        vectors = Vectors([], Usage())
        try:
            async with asyncio.timeout(min(timeout_s, served.offer.total_timeout_s)):
                vectors = await served.offer.provider.embed(named)
        except Exception as failed:
            error = failed
            raise
        finally:
            _count(served, error, vectors.usage)
        _check_size(len(vectors.values), max(map(len, vectors.values), default=0))
        return served, vectors

    async def count_tokens(self, model_id: str, messages: Sequence[Message]) -> int:
        """Estimate a conversation's input tokens by the rule in `counting`; raise NotFound."""
        self._catalogue.resolve(model_id, embeddings=False)
        # Megabytes of text would hold up every other stream of the process.
        return await asyncio.to_thread(counting.tokens_of_messages, messages)

    def models(self) -> list[Model]:
        """Return every configured model."""
        return self._catalogue.models

    def model(self, model_id: str) -> Model:
        """Return one model; raise NotFound."""
        return self._catalogue.get(model_id)

    async def aclose(self) -> None:
        """End every call, then let the providers go."""
        await self._joiner.aclose()
        for offer in self._catalogue.offers:
            await offer.provider.aclose()


def _with_model(question: Question, served: Served) -> Question:
    return replace(question, model=served.model.name)


def _count(served: Served, error: Exception | None, usage: Usage) -> None:
    if error is None:
        status = "success"
    elif isinstance(error, MeshError):
        status = error.code.name.lower()
    else:
        status = "deadline_exceeded" if isinstance(error, TimeoutError) else "internal"
    provider, model = served.offer.name, served.model.name
    _calls.labels(provider, model, status).inc()
    for kind, tokens in (
        ("input", usage.input_tokens),
        ("output", usage.output_tokens),
        ("cached_input", usage.cached_input_tokens),
    ):
        if tokens > 0:
            _tokens.labels(provider, model, kind).inc(tokens)


def _check_size(vectors: int, numbers: int) -> None:
    if vectors * numbers * _FLOAT_BYTES > _MAX_VECTOR_BYTES:
        raise InvalidRequest(
            "the vectors don't fit into one message: send fewer inputs at once",
            reason="TOO_MANY_VECTORS",
            violations=[("inputs", "together their vectors are larger than 4 MiB")],
        )
