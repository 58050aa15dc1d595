"""The handlers of KeyService."""

import time

from agentmesh.api.llm.v1 import key_service_pb2 as pb
from agentmesh.kit import names
from agentmesh.kit.errors import PermissionDenied
from agentmesh.kit.rpc_server import Call
from agentmesh_llm import usage_wire
from agentmesh_llm.books.keys import Keys
from agentmesh_llm.checks import refuse

_DIGEST_BYTES = 32


class KeyApi:
    """Answers operators, and the gateway that wants to know whose a key is."""

    def __init__(self, keys: Keys) -> None:
        self._keys = keys

    async def create_key(self, request: pb.CreateKeyRequest, call: Call) -> pb.CreateKeyResponse:
        """Make a key."""
        _check_operator(call)
        wanted = request.key
        limits = usage_wire.limits_of(wanted, time.time())
        expires_ms = wanted.expire_time.ToMilliseconds() if wanted.HasField("expire_time") else 0
        tenant = call.tenant or names.DEFAULT_TENANT
        key, secret = await self._keys.create(tenant, wanted.name, tuple(wanted.models), limits, expires_ms)
        return pb.CreateKeyResponse(key=usage_wire.to_key(key), secret=secret)

    async def list_keys(self, request: pb.ListKeysRequest, call: Call) -> pb.ListKeysResponse:
        """List keys."""
        _check_operator(call)
        found = await self._keys.list(call.tenant, every=request.all)
        return pb.ListKeysResponse(keys=map(usage_wire.to_key, found))

    async def revoke_key(self, request: pb.RevokeKeyRequest, call: Call) -> pb.RevokeKeyResponse:
        """End a key."""
        _check_operator(call)
        return pb.RevokeKeyResponse(key=usage_wire.to_key(await self._keys.revoke(call.tenant, request.id)))

    async def verify_key(self, request: pb.VerifyKeyRequest, call: Call) -> pb.VerifyKeyResponse:
        """Say whose a key is."""
        if len(request.sha256) != _DIGEST_BYTES:
            refuse([("sha256", f"must be {_DIGEST_BYTES} bytes")])
        return pb.VerifyKeyResponse(key=usage_wire.to_key(await self._keys.verify(request.sha256.hex())))


def _check_operator(call: Call) -> None:
    if call.identity.role != names.OPERATOR:
        raise PermissionDenied("keys are made and ended by operators only")
