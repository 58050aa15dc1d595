"""What the runner needs from the rest of the mesh, with the attempt's token on each call."""

from collections.abc import AsyncGenerator
from typing import Protocol

from agentmesh.api.llm.v1 import llm_service_pb2 as llm_pb
from agentmesh.api.types.v1 import types_pb2


class Models(Protocol):
    """The llm-proxies."""

    def generate(
        self, request: llm_pb.GenerateRequest, *, token: str, traceparent: str, timeout_s: float
    ) -> AsyncGenerator[llm_pb.Delta, None]:
        """Stream an answer, for `timeout_s` at most; raises MeshError."""

    async def cancel(self, idempotency_key: str, *, token: str) -> None:
        """Stop a keyed call at its proxy; a proxy that can't be reached is no error."""


class Artifacts(Protocol):
    """The artifact store."""

    async def store(self, name: str, media_type: str, data: bytes, *, token: str) -> types_pb2.Artifact:
        """Store bytes for the token's task."""

    async def load(self, artifact_id: str, *, token: str) -> tuple[types_pb2.Artifact, bytes]:
        """Return an artifact and its bytes."""
