"""What the llm service does with many texts at a time: embeds, orders and completes them, on a caller's account."""

import asyncio
from collections.abc import Callable, Hashable, Sequence
from functools import partial
from typing import TypeVar

from agentmesh.api.llm.v1 import llm_service_pb2 as pb
from agentmesh.kit import names
from agentmesh.kit.errors import InvalidRequest
from agentmesh_llm.answers.caching import AnswerCache, CacheUse
from agentmesh_llm.batches.bills import Bill
from agentmesh_llm.batches.completing import Completing
from agentmesh_llm.batches.embedding import Embedding
from agentmesh_llm.batches.microbatch import Answered, MicroBatcher
from agentmesh_llm.batches.reranking import Reranking
from agentmesh_llm.books.accounts import Accounts, Standing, Tab
from agentmesh_llm.counting import rough_tokens_of_texts
from agentmesh_llm.domain import Ability, Completion, EmbedQuestion, PromptsQuestion, RerankQuestion
from agentmesh_llm.routing.catalogue import Catalogue, Served
from agentmesh_llm.watching.calls import CallRecord

T = TypeVar("T", bound=Hashable)
V = TypeVar("V")

# What fits into one message of the contract, with room for the numbers' frames.
_MAX_VECTOR_BYTES = names.MAX_MESSAGE_BYTES - 64 * 1024
_FLOAT_BYTES = 4


class BatchDesk:
    """Answers requests about texts, those of several callers together."""

    def __init__(
        self,
        catalogue: Catalogue,
        cache: AnswerCache,
        accounts: Accounts,
        observe: Callable[[Tab, CallRecord], None],
    ) -> None:
        self._catalogue = catalogue
        self._cache = cache
        self._accounts = accounts
        self._observe = observe
        self._embedding = MicroBatcher(Embedding(), cache)
        self._reranking = MicroBatcher(Reranking(), cache)
        self._completing = MicroBatcher(Completing(), cache)

    def use(self, catalogue: Catalogue) -> None:
        """Answer from another catalogue from now on; what runs goes on."""
        self._catalogue = catalogue

    async def embed(
        self, standing: Standing, question: EmbedQuestion, policy: pb.CachePolicy, timeout_s: float
    ) -> tuple[Served, Answered[list[float]]]:
        """Return vectors; raise InvalidRequest if they don't fit into one message, NotFound as `recall`."""
        served = self._served(standing, question.model, Ability.EMBED)
        _check_size(len(question.inputs), question.dimensions)
        use = self._cache.use(policy, repeatable=True)
        batched = self._embedding, served, question.dimensions, question.inputs
        embedded = await self._answer(*batched, standing, use, timeout_s)
        _check_size(len(embedded.values), max(map(len, embedded.values), default=0))
        return served, embedded

    async def rerank(
        self, standing: Standing, question: RerankQuestion, policy: pb.CachePolicy, timeout_s: float
    ) -> tuple[Served, Answered[float]]:
        """Return how well each document fits; raise NotFound as `recall`."""
        served = self._served(standing, question.model, Ability.RERANK)
        use = self._cache.use(policy, repeatable=True)
        batched = self._reranking, served, question.query, question.documents
        return served, await self._answer(*batched, standing, use, timeout_s, again=question.query)

    async def complete(
        self, standing: Standing, question: PromptsQuestion, policy: pb.CachePolicy, timeout_s: float
    ) -> tuple[Served, Answered[Completion]]:
        """Return how each text goes on; raise NotFound as `recall`."""
        served = self._served(standing, question.model, Ability.COMPLETE)
        sampling = question.sampling
        use = self._cache.use(policy, repeatable=sampling.seed is not None or sampling.temperature == 0)
        batched = self._completing, served, sampling, question.prompts
        tokens = sampling.max_output_tokens * len(question.prompts)
        # Where answers may differ, equal prompts want one each.
        return served, await self._answer(
            *batched, standing, use, timeout_s, output_tokens=tokens, alike=use is not None
        )

    async def aclose(self) -> None:
        """Let what is under way end."""
        for batcher in (self._embedding, self._reranking, self._completing):
            await batcher.aclose()

    def _served(self, standing: Standing, model_id: str, ability: Ability) -> Served:
        served = self._catalogue.resolve(model_id, ability)
        standing.check(served.model.id)
        return served

    async def _answer(
        self,
        batcher: MicroBatcher[T, V],
        served: Served,
        terms: T,
        texts: Sequence[str],
        standing: Standing,
        use: CacheUse | None,
        timeout_s: float,
        *,
        again: str = "",
        output_tokens: int | None = None,
        alike: bool = True,
    ) -> Answered[V]:
        """Have texts answered in batches on the caller's account; `again` is read with each of them."""

        def tokens() -> int:
            return rough_tokens_of_texts(texts) + len(texts) * rough_tokens_of_texts([again])

        tab = self._accounts.open_tab(standing, served.deployments, tokens, output_tokens)
        deadline = asyncio.get_running_loop().time() + min(timeout_s, served.total_timeout_s)
        bill = Bill(standing.caller, partial(self._observe, tab), tab.close, deadline)
        async with asyncio.timeout_at(deadline):
            answered = await batcher.answer(bill, served, terms, texts, use, alike=alike)
        if not answered.asked:
            self._accounts.hit(standing, served.deployments[0])
        return answered


def _check_size(vectors: int, numbers: int) -> None:
    if vectors * numbers * _FLOAT_BYTES > _MAX_VECTOR_BYTES:
        raise InvalidRequest(
            "the vectors don't fit into one message: send fewer inputs at once",
            reason="TOO_MANY_VECTORS",
            violations=[("inputs", "together their vectors are larger than 4 MiB")],
        )
