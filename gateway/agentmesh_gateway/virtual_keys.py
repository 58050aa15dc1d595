"""Asks the llm-proxy whose a virtual key is, and remembers the answer for a moment."""

import hashlib
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence

from agentmesh.api.llm.v1 import key_service_pb2 as pb
from agentmesh.kit import errors, names
from agentmesh_gateway.upstream import Upstream

_VERIFY = pb.DESCRIPTOR.services_by_name["KeyService"].methods_by_name["VerifyKey"]
_TIMEOUT_S = 5.0
_KNOWN_S = 5.0
_UNKNOWN_S = 1.0
_MAX_REMEMBERED = 10_000


class VirtualKeys:
    """Keys that the llm-proxy hands out. It looks at each again itself, so that what is remembered here opens nothing.

    `credential` is the gateway's own; `now` tells monotonic seconds.
    """

    def __init__(
        self, upstream: Upstream, credential: Sequence[tuple[str, str]], now: Callable[[], float] = time.monotonic
    ) -> None:
        self._upstream = upstream
        self._credential = credential
        self._now = now
        self._remembered: OrderedDict[bytes, tuple[float, pb.VirtualKey | None]] = OrderedDict()

    async def verify(self, secret: str) -> pb.VirtualKey:
        """Return the key; raise Unauthenticated, or Unavailable if the llm-proxy can't say."""
        digest = hashlib.sha256(secret.encode()).digest()
        until, key = self._remembered.get(digest, (0.0, None))
        if self._now() >= until:
            key = await self._ask(digest)
            self._remembered[digest] = (self._now() + (_KNOWN_S if key else _UNKNOWN_S), key)
            self._remembered.move_to_end(digest)
            while len(self._remembered) > _MAX_REMEMBERED:
                self._remembered.popitem(last=False)
        if key is None:
            raise errors.Unauthenticated("the API key is not known, was revoked, or is over", reason="KEY_INVALID")
        return key

    async def _ask(self, digest: bytes) -> pb.VirtualKey | None:
        try:
            request = pb.VerifyKeyRequest(sha256=digest)
            answer = await self._upstream.unary(_VERIFY, request, timeout_s=_TIMEOUT_S, metadata=self._credential)
        except errors.Unauthenticated as error:
            if error.reason != "KEY_INVALID":
                raise
            return None
        key: pb.VirtualKey = answer.key
        return key


def is_virtual(secret: str) -> bool:
    """Say whether a credential is one that the llm-proxy hands out."""
    return secret.startswith(names.VIRTUAL_KEY_PREFIX)
