"""What the micro-batcher costs a text that is alone: row B15's second figure, in this process and without a network."""

import asyncio
import time
from collections.abc import Awaitable
from typing import cast

from agentmesh_llm.adapters.memory_cache import MemoryCache
from agentmesh_llm.answers.caching import AnswerCache
from agentmesh_llm.batches.bills import Bill
from agentmesh_llm.batches.embedding import Embedding
from agentmesh_llm.batches.microbatch import MicroBatcher
from agentmesh_llm.domain import Ability, Batch, EmbedQuestion, Usage, Vectors
from agentmesh_llm.ports import Provider
from agentmesh_llm.routing import dispatch
from agentmesh_llm.routing.catalogue import Catalogue
from agentmesh_llm.routing.deployments import Deployment, Offer
from agentmesh_llm.routing.dispatch import Ways
from agentmesh_llm.watching.calls import Caller, CallRecord
from tests.bench.load import percentile
from tests.bench.proof import WrongAnswer

_CALLER = Caller("bench")
_PATIENCE_S = 20.0
_VECTOR = [0.5] * 8


class _Provider:
    """Has a vector for any text, and takes one turn of the loop to find it."""

    async def embed(self, question: EmbedQuestion) -> Vectors:
        await asyncio.sleep(0)
        return Vectors([_VECTOR for _ in question.inputs], Usage(len(question.inputs)), "lean-1")


async def added_alone_ms(probes: int) -> float:
    """Return what one text at a time takes more through the micro-batcher than straight from dispatch, p50."""
    offer = Offer("lean", cast(Provider, _Provider()), (), ("vectors",), _PATIENCE_S)
    served = Catalogue([offer], "").resolve("vectors", Ability.EMBED)
    work = Embedding()
    batcher = MicroBatcher(work, AnswerCache(MemoryCache(0, time.monotonic), ttl_s=0))
    deadline = asyncio.get_running_loop().time() + _PATIENCE_S

    async def batched(text: str) -> list[float]:
        bill = Bill(_CALLER, _heard, _closed, deadline)
        return (await batcher.answer(bill, served, 0, [text], None)).values[0]

    async def straight(text: str) -> list[float]:
        def ask(one: Deployment) -> Awaitable[Batch[list[float]]]:
            return work.ask(one.offer.provider, one.model, 0, [text])

        ways = Ways([served.deployments])
        return (await dispatch.once(ways, ask, deadline, _CALLER, _heard, operation=work.operation)).values[0]

    through, beside = [], []
    for number in range(probes):
        through.append(await _ms(batched(f"text {number}")))
        beside.append(await _ms(straight(f"text {number}")))
    await batcher.aclose()
    return percentile(through, 50) - percentile(beside, 50)


async def _ms(answer: Awaitable[list[float]]) -> float:
    began = time.perf_counter()
    if await answer != _VECTOR:
        raise WrongAnswer("that is not the text's vector")
    return (time.perf_counter() - began) * 1000


def _heard(record: CallRecord) -> None:
    """Book nothing."""


def _closed() -> None:
    """Set nothing aside."""
