"""The llm-proxies over gRPC; the same key always goes to the same proxy while that lives."""

import hashlib
from collections.abc import AsyncGenerator, Sequence
from pathlib import Path
from typing import Any

from agentmesh.api.llm.v1 import llm_service_pb2 as pb
from agentmesh.api.llm.v1 import llm_service_pb2_grpc as pb_grpc
from agentmesh.kit import names, rpc_client, telemetry
from agentmesh.kit.errors import MeshError

log = telemetry.logger(__name__)

_CANCEL_TIMEOUT_S = 2.0


class GrpcModels:
    """Chooses a proxy by rendezvous hash of the call's key."""

    def __init__(self, addresses: Sequence[str], token: str, *, ca: Path | None) -> None:
        self._channels = {address: rpc_client.open_channel(address, ca=ca) for address in addresses}
        self._stubs: dict[str, Any] = {
            address: pb_grpc.LlmServiceStub(channel) for address, channel in self._channels.items()
        }
        self._token = token

    async def generate(
        self, request: pb.GenerateRequest, *, token: str, traceparent: str, timeout_s: float
    ) -> AsyncGenerator[pb.Delta, None]:
        """See Models."""
        stub = self._stubs[self._choose(request.idempotency_key)]
        metadata = (*self._metadata(token), (names.TRACEPARENT, traceparent))
        async with rpc_client.streaming(
            stub.StreamGenerate, pb.StreamGenerateRequest(request=request), timeout_s=timeout_s, metadata=metadata
        ) as call:
            async for answer in call:
                for delta in answer.deltas:
                    yield delta

    async def cancel(self, idempotency_key: str, *, token: str) -> None:
        """See Models."""
        stub = self._stubs[self._choose(idempotency_key)]
        request = pb.CancelGenerateRequest(idempotency_key=idempotency_key)
        try:
            await rpc_client.unary(
                stub.CancelGenerate, request, timeout_s=_CANCEL_TIMEOUT_S, metadata=self._metadata(token)
            )
        except MeshError as error:
            log.info("cancel_not_delivered", reason=error.reason)

    async def aclose(self) -> None:
        """Close the channels."""
        for channel in self._channels.values():
            await channel.close()

    def _metadata(self, token: str) -> rpc_client.Metadata:
        return (*rpc_client.bearer(self._token), (names.TASK_TOKEN, token))

    def _choose(self, key: str) -> str:
        def weight(address: str) -> bytes:
            return hashlib.blake2b(f"{address} {key}".encode(), digest_size=8).digest()

        return max(self._stubs, key=weight)
