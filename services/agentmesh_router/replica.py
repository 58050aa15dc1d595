"""What a router does to be one of several: holds a lease, so that what it leaves behind can be taken over."""

import asyncio
import socket

from agentmesh.api.storage.v1 import task_store_service_pb2 as pb
from agentmesh.kit import telemetry
from agentmesh.kit.clock import duration
from agentmesh.kit.errors import MeshError
from agentmesh_router.ports import Storage

log = telemetry.logger(__name__)

_RETRY_S = 0.2


class RouterLease:
    """The router's own lease. A new start at the same machine and port ends the older one's at once."""

    def __init__(self, storage: Storage, router_id: str, port: int, *, ttl_s: float) -> None:
        self._storage = storage
        self._router_id = router_id
        self._name = f"router@{socket.gethostname()}:{port}"
        self._ttl_s = ttl_s
        self.begun = asyncio.Event()

    async def keep(self) -> None:
        """Renew until cancelled. Until `begun` is set, nothing may be claimed."""
        renew = pb.RenewLease(incarnation=self._router_id, name=self._name, ttl=duration(self._ttl_s))
        while True:
            try:
                await self._storage.commit(pb.Mutation(renew=renew))
                self.begun.set()
            except MeshError as error:
                log.info("router_lease_not_renewed", reason=error.reason)
                await asyncio.sleep(_RETRY_S)
                continue
            await asyncio.sleep(self._ttl_s / 3)

    async def give_up(self) -> None:
        """End the lease, at the end of a drain."""
        try:
            await self._storage.commit(pb.Mutation(free_runner=pb.FreeRunner(incarnation=self._router_id)))
        except MeshError as error:
            log.info("router_lease_not_freed", reason=error.reason)
