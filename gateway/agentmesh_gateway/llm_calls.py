"""Calls to the llm-proxy for clients of the HTTP interfaces that other vendors made."""

from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import Any

from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message import Message
from starlette.requests import Request

from agentmesh.api.llm.v1 import llm_service_pb2 as pb
from agentmesh.kit import errors, names, rpc_client, telemetry
from agentmesh.kit.auth import MODELS, PUBLIC, Authenticator, Keyring
from agentmesh_gateway import bodies
from agentmesh_gateway.callers import patience_of, traceparent_of
from agentmesh_gateway.json_bodies import object_of
from agentmesh_gateway.settings import Bounds
from agentmesh_gateway.streaming import while_connected
from agentmesh_gateway.upstream import Metadata, Upstream
from agentmesh_gateway.virtual_keys import VirtualKeys, is_virtual

_METHODS: Mapping[str, MethodDescriptor] = pb.DESCRIPTOR.services_by_name["LlmService"].methods_by_name
_BEARER = "Bearer "
# What the llm-proxy says of the client's key, not of the gateway's.
_CLIENTS_FAULT = frozenset({"KEY_INVALID", "MODEL_NOT_ALLOWED"})


class LlmCalls:
    """The llm-proxies as the HTTP interfaces see them.

    The gateway checks the client's credential and tells the llm-proxy the tenant under its own role token, so no
    header or field of a client's can name one. A call ends with its client.
    """

    def __init__(self, upstream: Upstream, authenticator: Authenticator, keyring: Keyring, bounds: Bounds) -> None:
        self.bounds = bounds
        self._upstream = upstream
        self._authenticator = authenticator
        self._credential = rpc_client.bearer(keyring.role_token(names.GATEWAY))
        self._virtual_keys = VirtualKeys(upstream, self._credential)

    async def metadata_of(self, request: Request) -> Metadata:
        """Return the metadata of calls for this client; raise Unauthenticated. The body need not be read for it."""
        shown = request.headers.get("x-api-key")
        credential = request.headers.get(names.AUTHORIZATION, "") if shown is None else _BEARER + shown
        traceparent = (names.TRACEPARENT, traceparent_of(request))
        secret = credential.removeprefix(_BEARER).strip()
        if is_virtual(secret):
            # A key that was revoked opens nothing, not even where nobody is asked for a key.
            try:
                key = await self._virtual_keys.verify(secret)
            except errors.MeshError as error:
                raise _ours(error) from None
            return (*self._credential, (names.TENANT, key.tenant), (names.VIRTUAL_KEY, key.id), traceparent)
        identity = self._authenticator.identify({names.AUTHORIZATION: credential}, PUBLIC)
        identity.check(MODELS)
        return (*self._credential, (names.TENANT, identity.tenant), traceparent)

    async def read_object(self, request: Request) -> dict[str, Any]:
        """Return the JSON object that is the body; raise what becomes 400, 413 or 415."""
        body = await bodies.read_json_body(request, self.bounds)
        return object_of(body, self.bounds.max_json_depth)

    async def unary(self, name: str, message: Message, request: Request, metadata: Metadata) -> Any:
        """Make a unary call; raise the MeshError that the llm-proxy meant, or ClientDisconnect."""
        timeout_s = self._timeout_s(request, self.bounds.answer_timeout_s)
        call = self._upstream.unary(_METHODS[name], message, timeout_s=timeout_s, metadata=metadata)
        try:
            return await while_connected(request.receive, call)
        except errors.MeshError as error:
            raise _ours(error) from None

    async def deltas(
        self, asked: pb.GenerateRequest, request: Request, metadata: Metadata
    ) -> AsyncGenerator[Sequence[pb.Delta], None]:
        """Yield an answer's deltas as they come; the last one is a finish, or a MeshError is raised."""
        timeout_s = self._timeout_s(request, self.bounds.answer_stream_timeout_s)
        message = pb.StreamGenerateRequest(request=asked)
        finished = False
        try:
            opened = self._upstream.streaming(
                _METHODS["StreamGenerate"], message, timeout_s=timeout_s, metadata=metadata
            )
            async with opened as call:
                async for response in call:
                    if response.deltas:
                        finished = response.deltas[-1].HasField("finish")
                        yield response.deltas
        except errors.MeshError as error:
            raise _ours(error) from None
        if not finished:
            raise errors.Unavailable("the answer broke off", reason="STREAM_INTERRUPTED")

    def _timeout_s(self, request: Request, longest_s: float) -> float:
        return patience_of(request, default_s=longest_s, max_s=longest_s)


def _ours(error: errors.MeshError) -> errors.MeshError:
    """Return what the client may be told: that the gateway's own credential is wrong is no fault of the client's."""
    clients_fault = error.reason in _CLIENTS_FAULT
    if isinstance(error, errors.Unauthenticated | errors.PermissionDenied) and not clients_fault:
        telemetry.logger(__name__).error("llm_proxy_refuses_gateway", reason=error.reason)
        return errors.Internal("the gateway is not set up to ask for models", reason="GATEWAY_CREDENTIAL")
    return error
