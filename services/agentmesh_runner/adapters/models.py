"""The llm-proxies over gRPC; the same key always goes to the same proxy while that can be reached."""

import asyncio
from collections.abc import AsyncGenerator

from agentmesh.api.llm.v1 import llm_service_pb2 as pb
from agentmesh.kit import names, rpc_client, telemetry
from agentmesh.kit.errors import MeshError, Unavailable, Unreachable
from agentmesh_runner.adapters.proxies import Proxies, Proxy

log = telemetry.logger(__name__)

_CANCEL_TIMEOUT_S = 2.0
_MAX_REMEMBERED = 4096


class GrpcModels:
    """Asks the proxy that a rendezvous hash of the call's key chooses, and the next if nobody answers there."""

    def __init__(self, proxies: Proxies, token: str) -> None:
        self._proxies = proxies
        self._token = token
        self._went: dict[str, Proxy] = {}  # where calls are that have not ended as far as known

    async def generate(
        self, request: pb.GenerateRequest, *, token: str, traceparent: str, timeout_s: float
    ) -> AsyncGenerator[pb.Delta, None]:
        """See Models."""
        key = request.idempotency_key
        metadata = (*self._metadata(token), (names.TRACEPARENT, traceparent))
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout_s
        failure: MeshError = Unavailable("there is no llm-proxy", reason="NO_LLM_PROXY")
        for proxy in await self._proxies.ranked(key):
            self._remember(key, proxy)
            answered = False
            try:
                async with (
                    proxy.in_use(),
                    rpc_client.streaming(
                        proxy.stub.StreamGenerate,
                        pb.StreamGenerateRequest(request=request),
                        timeout_s=max(0.0, deadline - loop.time()),
                        metadata=metadata,
                    ) as call,
                ):
                    async for answer in call:
                        answered = True
                        for delta in answer.deltas:
                            yield delta
            except Unreachable as error:
                self._proxies.is_down(proxy)
                if answered:
                    raise
                failure = error
            except MeshError:
                self._went.pop(key, None)
                raise
            else:
                self._went.pop(key, None)
                return
        raise failure

    async def cancel(self, idempotency_key: str, *, token: str) -> None:
        """See Models; goes where the call went."""
        proxy = self._went.pop(idempotency_key, None)
        if proxy is None:
            proxy = next(iter(await self._proxies.ranked(idempotency_key)), None)
        if proxy is None:
            return
        request = pb.CancelGenerateRequest(idempotency_key=idempotency_key)
        try:
            async with proxy.in_use():
                await rpc_client.unary(
                    proxy.stub.CancelGenerate, request, timeout_s=_CANCEL_TIMEOUT_S, metadata=self._metadata(token)
                )
        except MeshError as error:
            log.info("cancel_not_delivered", reason=error.reason)

    async def aclose(self) -> None:
        """Close the channels."""
        await self._proxies.aclose()

    def _metadata(self, token: str) -> rpc_client.Metadata:
        return (*rpc_client.bearer(self._token), (names.TASK_TOKEN, token))

    def _remember(self, key: str, proxy: Proxy) -> None:
        self._went.pop(key, None)
        self._went[key] = proxy
        if len(self._went) > _MAX_REMEMBERED:
            del self._went[next(iter(self._went))]
