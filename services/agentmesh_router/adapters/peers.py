"""Several storage processes as one: calls go to one of them, and to the next when that can't be reached."""

import zlib
from collections.abc import Callable, Sequence
from typing import Any

import grpc

from agentmesh.api.storage.v1 import artifact_service_pb2_grpc as artifact_grpc
from agentmesh.api.storage.v1 import task_store_service_pb2_grpc as store_grpc
from agentmesh.kit import rpc_client, telemetry
from agentmesh.kit.errors import MeshError, Unavailable

log = telemetry.logger(__name__)


class _Peer:
    """One storage process: a connection for tasks, and one for bytes, which must not stand in their way."""

    def __init__(self, address: str, trust: rpc_client.Trust | None) -> None:
        self.address = address
        self._channels = (rpc_client.open_channel(address, trust=trust), rpc_client.open_channel(address, trust=trust))
        self.tasks: Any = store_grpc.TaskStoreServiceStub(self._channels[0])
        self.artifacts: Any = artifact_grpc.ArtifactServiceStub(self._channels[1])

    async def aclose(self) -> None:
        for channel in self._channels:
            await channel.close()


class StoragePeers:
    """The configured storage processes. Routers begin at different ones; `on_move` is called after a move."""

    def __init__(self, addresses: Sequence[str], router_id: str, *, trust: rpc_client.Trust | None) -> None:
        self._peers = [_Peer(address, trust) for address in addresses]
        self._at = zlib.crc32(router_id.encode()) % len(self._peers)
        self.on_move: list[Callable[[], None]] = []

    def __len__(self) -> int:
        return len(self._peers)

    @property
    def tasks(self) -> Any:
        """The stub of TaskStoreService to use now."""
        return self._peers[self._at].tasks

    @property
    def artifacts(self) -> Any:
        """The stub of storage's ArtifactService to use now."""
        return self._peers[self._at].artifacts

    def failed(self, stub: Any, error: MeshError) -> None:
        """Go on at the next peer if the one behind `stub` can't be reached, unless that was done already."""
        if len(self._peers) < 2 or not _is_of_transport(error) or stub is not self.tasks:
            return
        self._at = (self._at + 1) % len(self._peers)
        log.warning("storage_changed", address=self._peers[self._at].address)
        for told in self.on_move:
            told()

    async def aclose(self) -> None:
        """Close every connection."""
        for peer in self._peers:
            await peer.aclose()


def unreachable() -> Unavailable:
    """Say that storage can't be reached."""
    return Unavailable("storage can't be reached", reason="STORAGE_UNAVAILABLE", retry_after_s=1)


def _is_of_transport(error: MeshError) -> bool:
    """Say whether an error comes from the connection; what a peer says itself carries an error id."""
    codes = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED, grpc.StatusCode.DEADLINE_EXCEEDED)
    return error.code in codes and "error_id" not in error.metadata
