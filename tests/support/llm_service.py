"""Runs the real llm service in a test and calls it over gRPC as its callers do."""

import tempfile
import time
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

import grpc
from pydantic import SecretStr

from agentmesh.api.llm.v1 import key_service_pb2_grpc
from agentmesh.api.llm.v1 import llm_service_pb2 as pb
from agentmesh.api.llm.v1 import llm_service_pb2_grpc as rpc
from agentmesh.api.types.v1 import types_pb2
from agentmesh.kit import names
from agentmesh.kit.auth import Keyring, TaskClaims
from agentmesh.kit.errors import MeshError, from_rpc_error
from agentmesh.kit.model_settings import Llm, Provider, ProviderPool
from agentmesh.kit.rpc_client import bearer, open_channel, unary
from agentmesh.kit.settings import Settings
from agentmesh_llm.app import build
from tests.support.serving import serving

API_KEY = "CANARY-API-KEY"
PROMPT = "CANARY-PROMPT Rivers carry water. Rivers end in the sea."


@dataclass
class LlmCaller:
    """A client of the llm service; each method calls on behalf of a tenant's task."""

    stub: "rpc.LlmServiceAsyncStub"
    keys: Any
    keyring: Keyring
    timeout_s: float = 20.0
    address: str = ""
    traceparent: str = ""

    def metadata(self, tenant: str) -> list[tuple[str, str]]:
        """Return what a runner shows."""
        claims = TaskClaims(tenant, "task-1", 1, time.time() + 60)
        token = (names.TASK_TOKEN, self.keyring.sign(claims))
        trace = [(names.TRACEPARENT, self.traceparent)] if self.traceparent else []
        return [*bearer(self.keyring.role_token(names.RUNNER)), token, *trace]

    def gateway_metadata(self, tenant: str, key_id: str = "") -> list[tuple[str, str]]:
        """Return what a gateway shows for a client, and its virtual key."""
        token = bearer(self.keyring.role_token(names.GATEWAY))
        return [*token, (names.TENANT, tenant), (names.VIRTUAL_KEY, key_id)]

    async def call(
        self,
        method: str,
        message: Any,
        *,
        tenant: str = "acme",
        timeout_s: float | None = None,
        metadata: Sequence[tuple[str, str]] | None = None,
    ) -> Any:
        """Make a unary call; raise the MeshError that the service meant."""
        function = getattr(self.stub, method)
        shown = self.metadata(tenant) if metadata is None else metadata
        return await unary(function, message, timeout_s=timeout_s or self.timeout_s, metadata=shown)

    async def operate(self, method: str, message: Any, *, tenant: str = "") -> Any:
        """Make a unary call as the operator, for a tenant or for all; raise the MeshError that was meant."""
        function = getattr(self.keys if hasattr(self.keys, method) else self.stub, method)
        whose = ((names.TENANT, tenant),) if tenant else ()
        token = bearer(self.keyring.role_token(names.OPERATOR))
        return await unary(function, message, timeout_s=self.timeout_s, metadata=(*token, *whose))

    def open(self, asked: pb.GenerateRequest, *, tenant: str = "acme", timeout_s: float | None = None) -> Any:
        """Start a stream and return gRPC's call."""
        message = pb.StreamGenerateRequest(request=asked)
        return self.stub.StreamGenerate(message, timeout=timeout_s or self.timeout_s, metadata=self.metadata(tenant))

    async def stream(
        self, asked: pb.GenerateRequest, *, tenant: str = "acme", timeout_s: float | None = None
    ) -> tuple[list[pb.Delta], MeshError | None]:
        """Return every delta of a stream, and what it ended with if not OK."""
        return await read(self.open(asked, tenant=tenant, timeout_s=timeout_s))


async def read(call: Any) -> tuple[list[pb.Delta], MeshError | None]:
    """Read a stream to its end."""
    deltas: list[pb.Delta] = []
    try:
        async for response in call:
            deltas += response.deltas
    except grpc.aio.AioRpcError as error:
        return deltas, from_rpc_error(error)
    return deltas, None


@asynccontextmanager
async def llm_service(
    *providers: Provider, settings: Mapping[str, Any] = MappingProxyType({}), **llm: Any
) -> AsyncIterator[LlmCaller]:
    """Run the service over these providers, with these keys of `llm` in its settings, and these sections beside it."""
    keyring = Keyring("a secret for tests")
    async with AsyncExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        wanted = Settings(**{"data_dir": Path(folder), **settings}, llm=Llm(providers=providers, **llm))
        built = await build(wanted, keyring, stack)
        address = await stack.enter_async_context(serving(built.services, keyring=keyring))
        channel = await stack.enter_async_context(open_channel(address))
        keys = key_service_pb2_grpc.KeyServiceStub(channel)
        yield LlmCaller(rpc.LlmServiceStub(channel), keys, keyring, address=address)


def provider(
    base_url: str,
    models: Iterable[str] = ("ok",),
    *,
    embedding_models: Iterable[str] = (),
    kind: Literal["openai_compatible", "anthropic"] = "openai_compatible",
    name: str = "fake",
    api: Literal["chat_completions", "responses"] = "chat_completions",
    transport: Literal["http", "sdk"] = "http",
    **pool: Any,
) -> Provider:
    """Describe a provider that speaks OpenAI's wire, or that of another kind."""
    return Provider(
        name=name,
        kind=kind,
        api=api,
        transport=transport,
        base_url=base_url,
        api_key=SecretStr(API_KEY),
        models=tuple(models),
        embedding_models=tuple(embedding_models),
        pool=ProviderPool(**pool),
    )


def ask(model: str = "ok", prompt: str = PROMPT, **fields: Any) -> pb.GenerateRequest:
    """Write a request with one message of the user's."""
    parts = [types_pb2.Part(text=prompt)]
    message = pb.ChatMessage(role=pb.CHAT_ROLE_USER, parts=parts)
    return pb.GenerateRequest(model=model, messages=[message], **fields)


def text_of(deltas: Sequence[pb.Delta]) -> str:
    """Join the text of an answer."""
    return "".join(delta.text for delta in deltas)
