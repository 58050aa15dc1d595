"""What happens to the processes of a chaos run: a plan that depends on the seed only."""

import asyncio
from collections.abc import Coroutine, Iterator
from dataclasses import dataclass
from random import Random
from typing import Any

from tests.support.fleet import Fleet
from tests.support.postgres import Postgres

DATABASE = "postgres"
LEASE_S = 4.0
_ON_MEMBERS = ("kill",) * 6 + ("freeze", "freeze-past-lease", "drain")
_ON_DATABASE = ("stop", "kill", "freeze", "cut")


@dataclass(frozen=True)
class Blow:
    """One fault: what, on whom, and for how long."""

    kind: str
    target: str
    seconds: float

    def __str__(self) -> str:
        return f"{self.kind} {self.target} {self.seconds:.1f}s"


def plan(random: Random, members: list[str], *, database: bool) -> Iterator[Blow]:
    """Yield blows without end; about every tenth hits the database, if that may be hit."""
    while True:
        if database and random.random() < 0.1:
            yield Blow(random.choice(_ON_DATABASE), DATABASE, random.uniform(0.2, 2))
            continue
        kind = random.choice(_ON_MEMBERS)
        past = LEASE_S + random.uniform(0.5, 2)
        yield Blow(kind, random.choice(members), past if kind == "freeze-past-lease" else random.uniform(0.2, 1.5))


class Blows:
    """Deals blows out; one that takes long goes on beside the next ones."""

    def __init__(self, fleet: Fleet, postgres: Postgres | None) -> None:
        self._fleet = fleet
        self._postgres = postgres
        self._frozen: dict[str, asyncio.Task[None]] = {}

    async def deal(self, blow: Blow) -> None:
        """Deal one blow; a process that is frozen is not hit again before it is thawed."""
        if blow.target in self._frozen:
            return
        if blow.target == DATABASE:
            assert self._postgres is not None
            await self._hit_database(self._postgres, blow)
        elif blow.kind == "kill":
            await asyncio.to_thread(self._fleet.kill, blow.target)
        elif blow.kind == "drain":
            self._aside(blow.target, self._drain(blow.target))
        else:
            await asyncio.to_thread(self._fleet.freeze, blow.target)
            self._aside(blow.target, self._thaw(blow))

    async def end(self) -> None:
        """Wait until what goes on has ended."""
        while self._frozen:
            await asyncio.gather(*self._frozen.values())

    async def _hit_database(self, postgres: Postgres, blow: Blow) -> None:
        if blow.kind == "cut":
            await asyncio.to_thread(postgres.cut_connections)
        elif blow.kind == "freeze":
            await asyncio.to_thread(postgres.freeze)
            await asyncio.sleep(blow.seconds)
            await asyncio.to_thread(postgres.thaw)
        else:
            await asyncio.to_thread(postgres.kill if blow.kind == "kill" else postgres.stop_immediate)
            await asyncio.sleep(blow.seconds)
            await asyncio.to_thread(postgres.start)

    def _aside(self, name: str, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(work)
        self._frozen[name] = task
        task.add_done_callback(lambda _: self._frozen.pop(name))

    async def _drain(self, name: str) -> None:
        await asyncio.to_thread(self._fleet.drain, name)
        await asyncio.to_thread(self._fleet.start, name)

    async def _thaw(self, blow: Blow) -> None:
        await asyncio.sleep(blow.seconds)
        await asyncio.to_thread(self._fleet.thaw, blow.target)
