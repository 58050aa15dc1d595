"""Makes calls for every part of the client: credentials, channels, one way to fail, one layer of retries."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc

from agentmesh.client.channels import Channel, ChannelPool
from agentmesh.client.repeating import is_out_of_reach, is_worth_repeating
from agentmesh.kit import names, trace_context
from agentmesh.kit.backoff import Backoff
from agentmesh.kit.errors import MeshError, Unavailable, from_rpc_error
from agentmesh.kit.rpc_client import Metadata, bearer, is_asked_to_stop


class Caller:
    """Makes calls over a pool. `first_contact_s` bounds retries until the mesh has answered once; times are seconds."""

    def __init__(
        self, pool: ChannelPool, *, token: str, timeout_s: float, retry_for_s: float, first_contact_s: float
    ) -> None:
        self._pool = pool
        self._credential = bearer(token) if token else ()
        self._timeout_s = timeout_s
        self._retry_for_s = retry_for_s
        self._first_contact_s = first_contact_s
        self._contacted = False

    @property
    def metadata(self) -> Metadata:
        """What goes out with a call: the credential, and the trace that is open here, if there is one."""
        traceparent = trace_context.current()
        return (*self._credential, (names.TRACEPARENT, traceparent)) if traceparent else self._credential

    def backoff(self) -> Backoff:
        """Return a fresh budget of retries."""
        return Backoff(self._retry_for_s if self._contacted else min(self._retry_for_s, self._first_contact_s))

    def heard(self) -> None:
        """Note that the mesh has answered."""
        self._contacted = True

    async def unary(self, service: str, method: str, request: Any, *, repeat: bool = True) -> Any:
        """Make a unary call; with `repeat`, again while the mesh can't be reached. Raises MeshError."""
        backoff = self.backoff()
        while True:
            try:
                async with self.opened(service, method) as function:
                    answer = await function(request, timeout=self._timeout_s, metadata=self.metadata)
                self.heard()
                return answer
            except MeshError as error:
                if not repeat or not is_worth_repeating(error):
                    raise
                await backoff.wait(error)

    @asynccontextmanager
    async def streaming(self, service: str, method: str, request: Any) -> AsyncIterator[Any]:
        """Open a streaming call that is cancelled whatever way the block is left. Raises MeshError."""
        async with self.opened(service, method) as function:
            call = function(request, metadata=self.metadata)
            try:
                yield call
            finally:
                call.cancel()

    @asynccontextmanager
    async def opened(self, service: str, method: str) -> AsyncIterator[Any]:
        """Yield a method of a stub on a channel with room; what it raises becomes the MeshError that was meant."""
        channel = self._pool.take()
        try:
            yield getattr(getattr(channel, service), method)
        except grpc.aio.AioRpcError as raised:
            raise self._noted(channel, from_rpc_error(raised)) from None  # the cause is a page of transport internals
        except asyncio.CancelledError as raised:
            if is_asked_to_stop():
                raise
            raise self._noted(channel, Unavailable("the call was cut", reason="STREAM_INTERRUPTED")) from raised
        finally:
            self._pool.give_back(channel)

    def _noted(self, channel: Channel, error: MeshError) -> MeshError:
        if is_out_of_reach(error):
            self._pool.failed(channel)
        else:
            self.heard()
        return error
