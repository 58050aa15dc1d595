"""Finds runners: static addresses as they are, names by DNS, looked up again and again."""

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from agentmesh.kit import telemetry
from agentmesh.kit.discovery import resolve_all

log = telemetry.logger(__name__)

_RESOLVE_INTERVAL_S = 5.0


class Discovery:
    """Keeps one task running for each address that the configured names stand for now.

    `connect` takes an ip:port, and the name that its certificate is for.
    """

    def __init__(self, addresses: Sequence[str], connect: Callable[[str, str], Coroutine[Any, Any, None]]) -> None:
        self._addresses = addresses
        self._connect = connect
        self._running: dict[str, asyncio.Task[None]] = {}

    async def run(self) -> None:
        """Look up until cancelled, then let go of every connection."""
        try:
            while True:
                await self._look_up()
                await asyncio.sleep(_RESOLVE_INTERVAL_S)
        finally:
            for task in self._running.values():
                task.cancel()
            await asyncio.gather(*self._running.values(), return_exceptions=True)

    async def _look_up(self) -> None:
        try:
            found = await resolve_all(self._addresses)
        except OSError as error:
            log.warning("name_not_resolved", address=str(error))
            return  # a name that fails for a moment must not cost its runners their connections
        died = {address for address, task in self._running.items() if task.done()}
        for address in (found.keys() - self._running.keys()) | (found.keys() & died):
            self._running[address] = asyncio.create_task(self._connect(address, found[address]))
        for address in self._running.keys() - found.keys():
            self._running.pop(address).cancel()
