"""Makes, finds and ends virtual keys."""

import hashlib
import secrets
import time
import uuid
from collections import OrderedDict
from collections.abc import Awaitable, Callable

from agentmesh.kit import names, telemetry
from agentmesh.kit.errors import NotFound, Unauthenticated, Unavailable
from agentmesh_llm.books.records import Books, Limits, VirtualKey

log = telemetry.logger(__name__)

MAX_LISTED = 10_000
_MAX_CACHED = 10_000
_SECRET_BYTES = 24
_HINT_CHARACTERS = 8


class Keys:
    """Keys in the books, with those that were lately used at hand for `cache_s`; `now` tells seconds since 1970.

    While the books can't be reached, a key that was seen before is good for as long as it was then.
    """

    def __init__(self, books: Books, *, cache_s: float, now: Callable[[], float] = time.time) -> None:
        self._books = books
        self._cache_s = cache_s
        self._now = now
        self._cached: OrderedDict[str, tuple[float, VirtualKey | None]] = OrderedDict()

    async def create(
        self, tenant: str, name: str, models: tuple[str, ...], limits: Limits, expires_ms: int
    ) -> tuple[VirtualKey, str]:
        """Make a key; return it with its secret, which is kept nowhere."""
        secret = names.VIRTUAL_KEY_PREFIX + secrets.token_urlsafe(_SECRET_BYTES)
        key = VirtualKey(
            id=f"key_{uuid.uuid4().hex[:16]}",
            tenant=tenant,
            name=name,
            sha256=hashlib.sha256(secret.encode()).hexdigest(),
            hint=secret[:_HINT_CHARACTERS],
            models=models,
            limits=limits,
            created_ms=self._now_ms(),
            expires_ms=expires_ms,
        )
        await self._books.add_key(key)
        self._cached.pop(key.sha256, None)
        log.info("key_created", key_id=key.id, tenant=tenant)
        return key, secret

    async def verify(self, sha256: str) -> VirtualKey:
        """Return the live key with this digest; raise Unauthenticated, or Unavailable if that can't be known."""
        return self._live(await self._find(sha256, self._books.key_by_digest))

    async def get(self, key_id: str) -> VirtualKey:
        """Return a live key by its id; raise as `verify`."""
        return self._live(await self._find(key_id, self._books.key_by_id))

    async def list(self, tenant: str, *, every: bool) -> list[VirtualKey]:
        """Return a tenant's keys, or everybody's if it is empty, newest first; with `every`, also those that ended."""
        now_ms = self._now_ms()
        return [key for key in await self._books.keys(tenant, MAX_LISTED) if every or key.is_live(now_ms)]

    async def revoke(self, tenant: str, key_id: str) -> VirtualKey:
        """End a key of a tenant's, or anybody's if it is empty; raise NotFound."""
        key = await self._books.revoke(tenant, key_id, self._now_ms())
        if key is None:
            raise NotFound("there is no such key", reason="KEY_NOT_FOUND")
        self._cached.pop(key.id, None)
        self._cached.pop(key.sha256, None)
        log.info("key_revoked", key_id=key.id, tenant=key.tenant)
        return key

    async def _find(self, name: str, look: Callable[[str], Awaitable[VirtualKey | None]]) -> VirtualKey | None:
        now = self._now()
        known = self._cached.get(name)
        if known is not None and now < known[0]:
            return known[1]
        try:
            key = await look(name)
        except Unavailable:
            if known is None or known[1] is None:
                raise
            key = known[1]
        self._cached[name] = (now + self._cache_s, key)
        self._cached.move_to_end(name)
        while len(self._cached) > _MAX_CACHED:
            self._cached.popitem(last=False)
        return key

    def _live(self, key: VirtualKey | None) -> VirtualKey:
        if key is None or not key.is_live(self._now_ms()):
            raise Unauthenticated("the key is not known, was revoked, or is over", reason="KEY_INVALID")
        return key

    def _now_ms(self) -> int:
        return int(self._now() * 1000)
