"""Reaches other services: channels with the settings that were measured, errors as the peer meant them."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc

from agentmesh.kit import names
from agentmesh.kit.errors import Canceled, MeshError, Unreachable, from_rpc_error
from agentmesh.kit.grpc_poller import calm_poller

CHANNEL_OPTIONS: tuple[tuple[str, int], ...] = (
    ("grpc.keepalive_time_ms", 8_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.http2.ping_timeout_ms", 5_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    # Channels with equal options would share one connection, and its limit of streams, without this.
    ("grpc.use_local_subchannel_pool", 1),
    # Bounds what a stalled reader makes the server hold.
    ("grpc.http2.bdp_probe", 0),
    ("grpc.max_receive_message_length", names.MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", names.MAX_MESSAGE_BYTES),
    # Retries are ours: one layer, from a budget.
    ("grpc.enable_retries", 0),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1_000),
    # A name is looked up again after a failure; gRPC itself would do so every 30 s at most, and replicas come and go.
    ("grpc.dns_min_time_between_resolutions_ms", 2_000),
)

Metadata = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Trust:
    """PEM files of a client: whose servers it believes, and what it shows itself to servers that ask."""

    ca: Path | None = None
    """Who signed its certificates; without, the authorities that gRPC brings."""
    cert: Path | None = None
    key: Path | None = None

    def credentials(self) -> grpc.ChannelCredentials:
        """Read the files."""
        ca, cert, key = (file.read_bytes() if file else None for file in (self.ca, self.cert, self.key))
        return grpc.ssl_channel_credentials(ca, key, cert)


def open_channel(address: str, *, trust: Trust | None = None, server_name: str = "") -> grpc.aio.Channel:
    """Open a channel to host:port, over TLS if there is somebody to trust.

    The peer's certificate must be for `server_name`, if that is not the host.
    """
    if trust is None:
        channel = grpc.aio.insecure_channel(address, options=CHANNEL_OPTIONS)
    else:
        named = (("grpc.ssl_target_name_override", server_name),) if server_name else ()
        channel = grpc.aio.secure_channel(address, trust.credentials(), options=(*CHANNEL_OPTIONS, *named))
    calm_poller()
    return channel


def bearer(token: str) -> Metadata:
    """Return the metadata that shows a token."""
    return ((names.AUTHORIZATION, f"Bearer {token}"),)


def meant(error: grpc.aio.AioRpcError) -> MeshError:
    """Return the error that a peer meant.

    A cancellation without a word is none that was asked for here, because who cancels a call does not hear of its end:
    the peer stopped, and its calls with it.
    """
    said = from_rpc_error(error)
    return _stopped() if isinstance(said, Canceled) and "error_id" not in said.metadata else said


def _stopped() -> MeshError:
    return Unreachable("the service has stopped")


def is_asked_to_stop() -> bool:
    """Say whether the running task is being cancelled; grpc.aio raises the same for what a peer has cancelled."""
    task = asyncio.current_task()
    return task is None or task.cancelling() > 0


def _heard(error: grpc.aio.AioRpcError | asyncio.CancelledError) -> MeshError | None:
    """Return the error that a peer meant; None for a cancellation that was asked for here."""
    if isinstance(error, grpc.aio.AioRpcError):
        return meant(error)
    return None if is_asked_to_stop() else _stopped()


async def unary(method: Any, request: Any, *, timeout_s: float, metadata: Sequence[tuple[str, str]] = ()) -> Any:
    """Make a call that has one answer; raise the MeshError that the peer meant.

    Where the client streams, `request` is an iterator of requests.
    """
    try:
        return await method(request, timeout=timeout_s, metadata=metadata)
    except (grpc.aio.AioRpcError, asyncio.CancelledError) as error:
        heard = _heard(error)
        if heard is None:
            raise
        raise heard from error


@asynccontextmanager
async def streaming(
    method: Any, requests: Any, *, timeout_s: float | None = None, metadata: Sequence[tuple[str, str]] = ()
) -> AsyncIterator[Any]:
    """Open a streaming call that is cancelled whatever way the block is left.

    A dropped call would keep the peer's handler running. Pass None as `requests` to write by hand.
    """
    call = method(requests, timeout=timeout_s, metadata=metadata)
    try:
        yield call
    except (grpc.aio.AioRpcError, asyncio.CancelledError) as error:
        heard = _heard(error)
        if heard is None:
            raise
        raise heard from error
    finally:
        call.cancel()
