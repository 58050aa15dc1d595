"""Makes calls that ask the same one call at the provider, within this process."""

import asyncio
from collections.abc import Callable, Hashable
from dataclasses import dataclass

from agentmesh.kit import names, telemetry
from agentmesh.kit.errors import AlreadyExists, Canceled
from agentmesh_llm.answers.answer import Batches, Reader, SharedAnswer
from agentmesh_llm.settings import Bounds

_kept = telemetry.gauge(names.LLM_KEPT_BYTES, "Of answers that can be joined")

OnEnd = Callable[[SharedAnswer], None]
Name = tuple[str, str]


@dataclass(frozen=True, slots=True)
class JoinKey:
    """Whose call it is; keys of different tenants never meet. `digest` stands for the whole request."""

    tenant: str
    idempotency_key: str
    digest: bytes

    @property
    def name(self) -> Name:
        """Return what a call is found by."""
        return self.tenant, self.idempotency_key


class Joiner:
    """Starts provider calls and lets callers share them, by idempotency key or because they ask the same.

    A keyed call outlives its callers by `join_grace_s`, a whole answer its end by as much; what failed is never
    joined. A call without a key ends with its last caller. Answers are kept within `join_call_bytes` each and
    `join_total_bytes` together: the oldest whole ones go first, then a running one loses its beginning, so that it
    goes on for its callers but can't be joined.
    """

    def __init__(self, bounds: Bounds) -> None:
        self.bounds = bounds
        self.kept_bytes = 0
        self._by_key: dict[Name, _Call] = {}
        self._by_question: dict[Hashable, _Call] = {}
        self._running: set[_Call] = set()
        self._whole: dict[_Call, None] = {}  # in the order in which they ended

    def has(self, key: JoinKey) -> bool:
        """Say whether there is a call with this key that can be joined."""
        known = self._by_key.get(key.name)
        return known is not None and known.answer.joinable

    def open(
        self,
        key: JoinKey | None,
        start: Callable[[], Batches],
        *,
        deadline: float,
        on_end: OnEnd,
        question: Hashable = None,
    ) -> Reader:
        """Join the call with this key or the one for this question, or start one that ends by `deadline` (loop's time).

        Without either the call is the caller's alone. Raises AlreadyExists if the key stands for another request.
        """
        known = self._by_key.get(key.name) if key else None
        if key and known:
            if known.keys[key.name].digest != key.digest:
                raise AlreadyExists("the idempotency key belongs to another request", reason="IDEMPOTENCY_KEY_REUSED")
            if known.answer.joinable:
                return known.join(deadline, key)
        same = self._by_question.get(question) if question is not None else None
        if same is not None and same.answer.joinable:
            if key:
                self._name(same, key)
            reader = same.join(deadline, key)
            reader.coalesced = True
            return reader
        kept = key is not None or question is not None
        answer = SharedAnswer(
            start(),
            deadline=deadline,
            kept=kept,
            lag_bytes=self.bounds.reader_bytes,
            batch_bytes=self.bounds.response_bytes,
        )
        call = _Call(self, answer, on_end, question)
        answer.owner = call
        self._running.add(call)
        answer.task.add_done_callback(lambda _: self._running.discard(call))
        if key:
            self._name(call, key)
        if question is not None:
            self._by_question[question] = call
        return answer.read(key.name if key else None)

    async def cancel(self, tenant: str, idempotency_key: str) -> bool:
        """End what runs under this key and wait until its provider is let go; say whether there was anything.

        A call that others wait for, too, goes on for them.
        """
        name = (tenant, idempotency_key)
        # A call that couldn't be joined may still run beside the one that took its place.
        running = [call for call in self._running if name in call.keys and not call.answer.ended]
        ending = [call.answer.task for call in running if call.leave(name)]
        if ending:
            await asyncio.wait(ending)
        return bool(running)

    async def aclose(self) -> None:
        """End every call and forget every answer."""
        for call in list(self._whole):
            call.drop()
        tasks = [call.answer.task for call in self._running]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def make_room(self, grown: "_Call") -> None:
        """Keep within the bounds after an answer grew."""
        if grown.answer.held_bytes > self.bounds.join_call_bytes:
            grown.drop()
        while self.kept_bytes > self.bounds.join_total_bytes and self._whole:
            next(iter(self._whole)).drop()
        if self.kept_bytes > self.bounds.join_total_bytes:
            grown.drop()

    def keep_whole(self, call: "_Call") -> None:
        """Let a whole answer be joined for a while."""
        self._whole[call] = None

    def forget(self, call: "_Call") -> None:
        """Let nobody join an answer any more."""
        self._whole.pop(call, None)
        for name in call.keys:
            if self._by_key.get(name) is call:
                del self._by_key[name]

    def end_question(self, call: "_Call") -> None:
        """Let the next one who asks the same start a call of his own."""
        if call.question is not None and self._by_question.get(call.question) is call:
            del self._by_question[call.question]

    def _name(self, call: "_Call", key: JoinKey) -> None:
        call.keys[key.name] = key
        self._by_key[key.name] = call


class _Call:
    """A call at the provider, and who may share it."""

    def __init__(self, joiner: Joiner, answer: SharedAnswer, on_end: OnEnd, question: Hashable) -> None:
        self.answer = answer
        self.keys: dict[Name, JoinKey] = {}
        self.question = question
        self._joiner = joiner
        self._on_end = on_end
        self._counted_bytes = 0
        self._timer: asyncio.TimerHandle | None = None

    def join(self, deadline: float, key: JoinKey | None) -> Reader:
        if not self.answer.ended:
            self._stop_timer()
            self.answer.extend(deadline)
        reader = self.answer.read(key.name if key else None)
        reader.joined = True
        return reader

    def leave(self, name: Name) -> bool:
        """Take a key and its callers out of a running call; say whether that ends it."""
        if all(reader.name == name for reader in self.answer.readers) and self.keys.keys() == {name}:
            self.answer.cancel()
            return True
        if self._joiner._by_key.get(name) is self:
            del self._joiner._by_key[name]
        del self.keys[name]
        for reader in [reader for reader in self.answer.readers if reader.name == name]:
            reader.fail(Canceled("the call was canceled"))
        return False

    def grew(self, size: int) -> None:
        self._counted_bytes += size
        self._joiner.kept_bytes += size
        _kept.inc(size)
        self._joiner.make_room(self)

    def idle(self) -> None:
        if self.keys and self.answer.joinable:
            self._start_timer(self.answer.cancel)
        else:
            self.answer.cancel()

    def ended(self) -> None:
        self._stop_timer()
        self._joiner.end_question(self)
        self._on_end(self.answer)
        if self.keys and self.answer.error is None and self.answer.kept:
            self._joiner.keep_whole(self)
            self._start_timer(self.drop)
        else:
            self._uncount()
            self._joiner.forget(self)

    def drop(self) -> None:
        """Stop keeping the answer; a running one stays known by its keys, so that it can be canceled."""
        self._uncount()
        self._joiner.end_question(self)
        if self.answer.ended:
            self.answer.kept = False
            self._stop_timer()
            self._joiner.forget(self)
        elif self.answer.kept:
            self.answer.stop_keeping()

    def _uncount(self) -> None:
        self._joiner.kept_bytes -= self._counted_bytes
        _kept.dec(self._counted_bytes)
        self._counted_bytes = 0

    def _start_timer(self, then: Callable[[], None]) -> None:
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(self._joiner.bounds.join_grace_s, then)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
