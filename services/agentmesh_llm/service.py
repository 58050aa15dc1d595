"""What the llm service does: finds the model, looks for an answer, starts or joins the call."""

import asyncio
from collections.abc import Callable, Hashable, Sequence
from functools import partial

from agentmesh.api.llm.v1 import llm_service_pb2 as pb
from agentmesh.kit import names, telemetry
from agentmesh_llm import counting
from agentmesh_llm.answers.answer import Batches, Reader, SharedAnswer
from agentmesh_llm.answers.cache_keys import answer_key
from agentmesh_llm.answers.caching import AnswerCache, Recalled, entry_of, is_repeatable, not_cached
from agentmesh_llm.answers.joining import Joiner, JoinKey
from agentmesh_llm.answers.leasing import Sharing
from agentmesh_llm.answers.sole import SoleReader
from agentmesh_llm.batches.batch_desk import BatchDesk
from agentmesh_llm.books.accounts import Accounts, Standing, Tab
from agentmesh_llm.counting import rough_tokens
from agentmesh_llm.domain import Delta, Finish, Message, Model, Question
from agentmesh_llm.routing import dispatch
from agentmesh_llm.routing.catalogue import Catalogue, Served
from agentmesh_llm.routing.dispatch import Ways
from agentmesh_llm.settings import Bounds
from agentmesh_llm.watching.calls import CallRecord, Observer

_joined = telemetry.counter(names.LLM_JOINED_TOTAL, "Calls answered by a call that was there already")

AnyReader = Reader | SoleReader
_Begun = tuple[Tab, Callable[[], Batches]]
"""A call's account, and what starts it."""


class ModelDesk:
    """Answers for every configured model."""

    def __init__(
        self,
        catalogue: Catalogue,
        bounds: Bounds,
        cache: AnswerCache,
        accounts: Accounts,
        observers: Sequence[Observer] = (),
        sharing: Sharing | None = None,
    ) -> None:
        self.bounds = bounds
        self.accounts = accounts
        self._observers = observers
        self._catalogue = catalogue
        self._joiner = Joiner(bounds)
        self._cache = cache
        self._sharing = sharing
        self.batches = BatchDesk(catalogue, cache, accounts, self._observe)

    def use(self, catalogue: Catalogue) -> None:
        """Answer from another catalogue from now on; what runs goes on."""
        self._catalogue = catalogue
        self.batches.use(catalogue)

    def resolve(self, model_id: str) -> Served:
        """Return who answers questions to a model; raise NotFound or InvalidRequest."""
        return self._catalogue.resolve(model_id)

    async def recall(
        self, standing: Standing, served: Served, request: pb.GenerateRequest, key: JoinKey | None
    ) -> Recalled | None:
        """Look for an answer that was given before; None if the request has nothing to do with the cache.

        Raises NotFound if only a cached answer will do and there is none, PermissionDenied if the caller's key is not
        for the model.
        """
        standing.check(served.model.id, request.fallbacks)
        policy = request.cache if request.HasField("cache") else None
        use = self._cache.use(policy, repeatable=is_repeatable(request))
        if use is None:
            return None
        at = answer_key(standing.caller.tenant, served.model, request)
        entry = None
        if use.look and not (key and self._joiner.has(key)):
            entry = await self._cache.find_answer(at)
            if entry is not None:
                self.accounts.hit(standing, served.deployments[0])
        if entry is None and use.only:
            raise not_cached()
        return Recalled(use, at, entry)

    def ask(
        self,
        served: Served,
        question: Question,
        key: JoinKey | None,
        recalled: Recalled | None,
        timeout_s: float,
        standing: Standing,
        *,
        fallbacks: Sequence[str] = (),
    ) -> AnyReader:
        """Start the call on the caller's account within `timeout_s`, or join one. Close the reader in the end.

        Where the model can't be asked, the fallbacks are, in turn; raises NotFound for one that isn't there, and
        ResourceExhausted if the call is more than the caller may have.

        A call is joined by the same key, or by the same question if the request may have a cached answer; if that is
        under way at another llm-proxy, its answer is waited for. What has neither is read straight from its provider.
        """
        begin = partial(self._begin, served, self._catalogue.ways(served, fallbacks), question, standing)
        deadline = asyncio.get_running_loop().time() + timeout_s
        if key is None and recalled is None:
            tab, call = begin()
            return SoleReader(call(), deadline, tab.close)
        return self._join(begin, served, key, recalled, deadline, standing)

    def _begin(self, served: Served, ways: Ways, question: Question, standing: Standing) -> _Begun:
        tokens = question.sampling.max_output_tokens
        tab = self.accounts.open_tab(standing, served.deployments, partial(rough_tokens, question), tokens)
        return tab, partial(dispatch.stream, ways, question, standing.caller, partial(self._observe, tab))

    def _join(
        self,
        begin: Callable[[], _Begun],
        served: Served,
        key: JoinKey | None,
        recalled: Recalled | None,
        deadline: float,
        standing: Standing,
    ) -> Reader:
        same: Hashable = None
        if recalled is not None:
            same = recalled.key if recalled.use.look else object()  # kept whole, but found by nobody
        tabs: list[Tab] = []
        elsewhere = False  # another llm-proxy has asked, and kept the answer

        def start() -> Batches:
            tab, call = begin()
            tabs.append(tab)
            if self._sharing is None or recalled is None or not (recalled.use.look and recalled.use.keep):
                return call()
            return self._sharing.stream(recalled.key, call, found)

        def found() -> None:
            nonlocal elsewhere
            elsewhere = reader.joined = reader.coalesced = True
            self.accounts.hit(standing, served.deployments[0])

        def keep(answer: SharedAnswer) -> None:
            if recalled is not None and recalled.use.keep and not elsewhere and _is_of(answer.whole, served):
                entry = entry_of(answer.whole, served.model)
                if entry is not None:
                    self._cache.keep([(recalled.key, entry)], recalled.use.ttl_s)

        reader = self._joiner.open(
            key,
            start,
            deadline=deadline,
            on_end=keep,
            question=same,
        )
        for tab in tabs:
            reader.when_done(tab.close)
        if reader.joined:
            _joined.inc()
            self.accounts.hit(standing, served.deployments[0])
        return reader

    async def cancel(self, tenant: str, idempotency_key: str) -> bool:
        """End a running call by its key; say whether there was one."""
        return await self._joiner.cancel(tenant, idempotency_key)

    async def purge(self, tenant: str, model_pattern: str) -> int:
        """Forget a tenant's cached answers; return how many there were."""
        return await self._cache.purge(tenant, model_pattern)

    async def count_tokens(self, model_id: str, messages: Sequence[Message]) -> int:
        """Estimate a conversation's input tokens by the rule in `counting`; raise NotFound."""
        self._catalogue.resolve(model_id)
        # Megabytes of text would hold up every other stream of the process.
        return await asyncio.to_thread(counting.tokens_of_messages, messages)

    def models(self) -> list[Model]:
        """Return every configured model."""
        return self._catalogue.models

    def model(self, model_id: str) -> Model:
        """Return one model; raise NotFound."""
        return self._catalogue.get(model_id)

    def _observe(self, tab: Tab, record: CallRecord) -> None:
        tab.record(record)
        for observer in self._observers:
            observer(record)

    async def aclose(self) -> None:
        """End every call, and write down what they used."""
        await self._joiner.aclose()
        if self._sharing is not None:
            await self._sharing.aclose()
        await self.batches.aclose()
        await self._cache.aclose()
        await self.accounts.aclose()


def _is_of(deltas: Sequence[Delta], served: Served) -> bool:
    """Say whether the model itself gave an answer: a fallback's is not kept as its own."""
    end = deltas[-1] if deltas else None
    return isinstance(end, Finish) and end.deployment in {one.name for one in served.deployments}
