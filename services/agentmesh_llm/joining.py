"""Makes calls with one idempotency key one call at the provider, within this process."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from agentmesh.kit.errors import AlreadyExists
from agentmesh_llm.answer import Batches, Reader, SharedAnswer
from agentmesh_llm.settings import Bounds

OnEnd = Callable[[SharedAnswer], None]


@dataclass(frozen=True, slots=True)
class JoinKey:
    """Whose call it is; keys of different tenants never meet. `digest` stands for the whole request."""

    tenant: str
    idempotency_key: str
    digest: bytes


class Joiner:
    """Starts provider calls and lets callers with the same key share them.

    A keyed call outlives its callers by `join_grace_s`, a whole answer its end by as much; what failed is never
    joined. Answers are kept within `join_call_bytes` each and `join_total_bytes` together: the oldest whole ones go
    first, then a running one loses its beginning, so that it goes on for its callers but can't be joined.
    """

    def __init__(self, bounds: Bounds) -> None:
        self.bounds = bounds
        self.kept_bytes = 0
        self._current: dict[tuple[str, str], _Keyed] = {}
        self._running: set[_Owned] = set()
        self._whole: dict[_Keyed, None] = {}  # in the order in which they ended

    def open(self, key: JoinKey | None, start: Callable[[], Batches], *, deadline: float, on_end: OnEnd) -> Reader:
        """Join the call with this key, or start one that ends by `deadline`, in the loop's time.

        Without a key the call is the caller's alone. Raises AlreadyExists if the key stands for another request.
        """
        known = self._current.get((key.tenant, key.idempotency_key)) if key else None
        if key and known:
            if known.key.digest != key.digest:
                raise AlreadyExists("the idempotency key belongs to another request", reason="IDEMPOTENCY_KEY_REUSED")
            if known.answer.joinable:
                return known.join(deadline)
        answer = SharedAnswer(start(), deadline=deadline, kept=key is not None, lag_bytes=self.bounds.reader_bytes)
        owned = _Keyed(self, key, answer, on_end) if key else _Owned(self, answer, on_end)
        answer.owner = owned
        self._running.add(owned)
        answer.task.add_done_callback(lambda _: self._running.discard(owned))
        if isinstance(owned, _Keyed):
            self._current[owned.name] = owned
        return answer.read()

    async def cancel(self, tenant: str, idempotency_key: str) -> bool:
        """End the running call with this key and wait until its provider is let go; say whether there was one."""
        name = (tenant, idempotency_key)
        # A call that couldn't be joined may still run beside the one that took its place.
        found = [o.answer for o in self._running if isinstance(o, _Keyed) and o.name == name]
        running = [answer for answer in found if not answer.ended]
        for answer in running:
            answer.cancel()
        if running:
            await asyncio.wait([answer.task for answer in running])
        return bool(running)

    async def aclose(self) -> None:
        """End every call and forget every answer."""
        for keyed in list(self._whole):
            keyed.drop()
        tasks = [owned.answer.task for owned in self._running]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def make_room(self, grown: "_Keyed") -> None:
        """Keep within the bounds after an answer grew."""
        if grown.answer.held_bytes > self.bounds.join_call_bytes:
            grown.drop()
        while self.kept_bytes > self.bounds.join_total_bytes and self._whole:
            next(iter(self._whole)).drop()
        if self.kept_bytes > self.bounds.join_total_bytes:
            grown.drop()

    def keep_whole(self, keyed: "_Keyed") -> None:
        """Let a whole answer be joined for a while."""
        self._whole[keyed] = None

    def forget(self, keyed: "_Keyed") -> None:
        """Let nobody join an answer any more."""
        self._whole.pop(keyed, None)
        if self._current.get(keyed.name) is keyed:
            del self._current[keyed.name]


class _Owned:
    """A call that is one caller's alone: it ends with its caller."""

    def __init__(self, joiner: Joiner, answer: SharedAnswer, on_end: OnEnd) -> None:
        self.answer = answer
        self._joiner = joiner
        self._on_end = on_end

    def grew(self, size: int) -> None:
        pass

    def idle(self) -> None:
        self.answer.cancel()

    def ended(self) -> None:
        self._on_end(self.answer)


class _Keyed(_Owned):
    """A call that others may join."""

    def __init__(self, joiner: Joiner, key: JoinKey, answer: SharedAnswer, on_end: OnEnd) -> None:
        super().__init__(joiner, answer, on_end)
        self.key = key
        self.name = key.tenant, key.idempotency_key
        self._counted_bytes = 0
        self._timer: asyncio.TimerHandle | None = None

    def join(self, deadline: float) -> Reader:
        if not self.answer.ended:
            self._stop_timer()
            self.answer.extend(deadline)
        reader = self.answer.read()
        reader.joined = True
        return reader

    def grew(self, size: int) -> None:
        self._counted_bytes += size
        self._joiner.kept_bytes += size
        self._joiner.make_room(self)

    def idle(self) -> None:
        if self.answer.joinable:
            self._start_timer(self.answer.cancel)
        else:
            self.answer.cancel()

    def ended(self) -> None:
        self._stop_timer()
        if self.answer.error is None and self.answer.kept:
            self._joiner.keep_whole(self)
            self._start_timer(self.drop)
        else:
            self._uncount()
            self._joiner.forget(self)
        super().ended()

    def drop(self) -> None:
        """Stop keeping the answer; a running one stays known, so that it can be canceled."""
        self._uncount()
        if self.answer.ended:
            self.answer.kept = False
            self._stop_timer()
            self._joiner.forget(self)
        elif self.answer.kept:
            self.answer.stop_keeping()

    def _uncount(self) -> None:
        self._joiner.kept_bytes -= self._counted_bytes
        self._counted_bytes = 0

    def _start_timer(self, then: Callable[[], None]) -> None:
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(self._joiner.bounds.join_grace_s, then)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
