"""Calls to one kind of service: any method of the contract, over as many connections as the open calls need."""

import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import grpc
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from agentmesh.client.repeating import is_out_of_reach
from agentmesh.kit import rpc_client
from agentmesh.kit.auth import READ, scope_of
from agentmesh.kit.errors import MeshError, ResourceExhausted

# A server takes 100 streams on a connection, and the next one waits without a word.
_CALLS_PER_CHANNEL = 80

Metadata = Sequence[tuple[str, str]]


class _Lane:
    """One connection and the number of calls on it."""

    def __init__(self, address: str, trust: rpc_client.Trust | None) -> None:
        self.address = address
        self.channel = rpc_client.open_channel(address, trust=trust)
        self.calls = 0
        self._methods: dict[str, Any] = {}

    @property
    def broken(self) -> bool:
        """Whether the last attempt to connect failed."""
        return self.channel.get_state() is grpc.ChannelConnectivity.TRANSIENT_FAILURE

    def multicallable(self, method: MethodDescriptor) -> Any:
        """Return what calls a method, of whatever shape."""
        known = self._methods.get(method.full_name)
        if known is None:
            shape = (
                f"{'stream' if method.client_streaming else 'unary'}_{'stream' if method.server_streaming else 'unary'}"
            )
            known = self._methods[method.full_name] = getattr(self.channel, shape)(
                f"/{method.containing_service.full_name}/{method.name}",
                request_serializer=GetMessageClass(method.input_type).SerializeToString,
                response_deserializer=GetMessageClass(method.output_type).FromString,
            )
        return known


class Upstream:
    """The routers, or the llm-proxies. A call goes to the address with the fewest open calls that can be reached.

    Opens at most `max_channels` connections; raises ResourceExhausted when all of them are full.
    """

    def __init__(self, addresses: Sequence[str], *, trust: rpc_client.Trust | None, max_channels: int) -> None:
        self._addresses = tuple(addresses)
        self._trust = trust
        self._max_channels = max(max_channels, len(self._addresses))
        self._lanes = [_Lane(address, trust) for address in self._addresses]

    @property
    def open_calls(self) -> int:
        """Number of calls that have not ended."""
        return sum(lane.calls for lane in self._lanes)

    async def aclose(self) -> None:
        """Close every connection; calls that are open fail."""
        for lane in self._lanes:
            await lane.channel.close(None)

    async def unary(self, method: MethodDescriptor, request: Message, *, timeout_s: float, metadata: Metadata) -> Any:
        """Make a unary call; raise the MeshError that the service meant.

        What only reads is asked once more at another address if the first one can't be reached.
        """
        until = time.monotonic() + timeout_s
        failed = ""
        while True:
            with self._lane(but=failed) as lane:
                left_s = max(until - time.monotonic(), 0.0)
                try:
                    return await rpc_client.unary(
                        lane.multicallable(method), request, timeout_s=left_s, metadata=metadata
                    )
                except MeshError as error:
                    again = not failed and scope_of(method.name) == READ and is_out_of_reach(error)
                    if not again or set(self._addresses) == {lane.address}:
                        raise
                    failed = lane.address

    @asynccontextmanager
    async def streaming(
        self, method: MethodDescriptor, request: Message | None, *, timeout_s: float | None, metadata: Metadata
    ) -> AsyncIterator[Any]:
        """Open a streaming call that is cancelled whatever way the block is left; errors are MeshErrors.

        Pass None as `request` to write by hand.
        """
        with self._lane() as lane:
            opened = rpc_client.streaming(
                lane.multicallable(method), request, timeout_s=timeout_s, metadata=tuple(metadata)
            )
            async with opened as call:
                yield call

    @contextmanager
    def _lane(self, but: str = "") -> Iterator[_Lane]:
        lane = self._pick(but)
        lane.calls += 1
        try:
            yield lane
        finally:
            lane.calls -= 1

    def _pick(self, but: str) -> _Lane:
        """Return the connection for a call, to another address than `but` if there is one with room."""
        free = [lane for lane in self._lanes if lane.calls < _CALLS_PER_CHANNEL]
        free = [lane for lane in free if lane.address != but] or free
        if free:
            return min(free, key=lambda lane: (lane.broken, lane.calls))
        if len(self._lanes) >= self._max_channels:
            raise ResourceExhausted(
                "the gateway has as many open calls as it takes", reason="TOO_MANY_CALLS", retry_after_s=1.0
            )
        lane = _Lane(self._addresses[len(self._lanes) % len(self._addresses)], self._trust)
        self._lanes.append(lane)
        return lane
