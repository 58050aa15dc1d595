"""A chaos run: a fleet, a steady load, blows from a seed, and the history checker's verdict in the end."""

import asyncio
import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from tests.chaos.faults import LEASE_S, Blows, plan
from tests.chaos.load import Load
from tests.support import agents_for_tests
from tests.support.fleet import Fleet
from tests.support.history import History, Verdict
from tests.support.postgres import Postgres
from tests.support.settling import settle

_END_S = 90.0
"""How long after the last blow everything may take to come to its end."""
_WARM_S = 1.0


@dataclass
class Outcome:
    """What came of a run."""

    seed: int
    blows: int
    tasks: int
    verdict: Verdict
    errors: list[str]
    deaths: list[tuple[str, int]]
    seconds: float
    notes: list[str] = field(default_factory=list)

    @property
    def clean(self) -> bool:
        """Whether nothing was wrong."""
        return self.verdict.clean and not self.errors and self.tasks > 0

    def line(self) -> str:
        """Return all figures in one line."""
        numbers = f"seed={self.seed} kills={self.blows} tasks={self.tasks}"
        rest = f"errors={len(self.errors)} deaths={len(self.deaths)} seconds={self.seconds:.0f}"
        return f"{numbers} {self.verdict.line()} {rest}"

    def report(self) -> str:
        """Return the line and what is wrong, with the blows that went before."""
        parts = [self.line(), self.verdict.report(), *self.errors[:20], *map(str, self.deaths[:20]), *self.notes]
        return "\n".join(part for part in parts if part)


@dataclass(frozen=True)
class Setting:
    """How big a run is; `postgres` is the server to use, None for SQLite with one storage."""

    folder: Path
    seed: int
    kills: int
    postgres: Postgres | None
    interval_s: float = 1.0
    workers: int = 8
    settings: dict[str, str] = field(default_factory=dict)


async def chaos(setting: Setting) -> Outcome:
    """Hit a random process every `interval_s` or so, PostgreSQL too, and judge."""
    random = Random(setting.seed)
    with ExitStack() as stack:
        fleet = await asyncio.to_thread(stack.enter_context, _fleet(setting))
        run = _Run(fleet, setting)
        blows = Blows(fleet, setting.postgres)
        async with run:
            hits = plan(random, fleet.names_of(), database=setting.postgres is not None)
            for _ in range(setting.kills):
                blow = next(hits)
                run.notes.append(f"{run.seconds:.1f} {blow}")
                await blows.deal(blow)
                await asyncio.sleep(setting.interval_s * random.uniform(0.5, 1.5))
            await blows.end()
            await asyncio.to_thread(fleet.heal)
            await asyncio.to_thread(fleet.wait_serving)
        return await run.outcome(setting.kills)


async def rolling(setting: Setting) -> Outcome:
    """Drain every process in turn and start it again, and judge; no client may see an error."""
    with ExitStack() as stack:
        fleet = await asyncio.to_thread(stack.enter_context, _fleet(setting))
        run = _Run(fleet, setting)
        names = fleet.names_of()
        async with run:
            for name in names:
                code = await asyncio.to_thread(fleet.restart, name)
                run.notes.append(f"{run.seconds:.1f} {name} ended with {code}")
                if code:
                    run.load.errors.append(f"{name} ended with {code}")
        return await run.outcome(len(names))


class _Run:
    """The load beside what a run does to the fleet."""

    def __init__(self, fleet: Fleet, setting: Setting) -> None:
        self.notes: list[str] = []
        self.history = History()
        self.load = Load(fleet.routers, self.history, Random(setting.seed + 1))
        self._fleet = fleet
        self._setting = setting
        self._began = time.monotonic()

    @property
    def seconds(self) -> float:
        """Seconds since the beginning."""
        return time.monotonic() - self._began

    async def __aenter__(self) -> "_Run":
        self._loading = asyncio.create_task(self.load.run(workers=self._setting.workers))
        await asyncio.sleep(_WARM_S)
        return self

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.load.stop()
        if kind is not None:
            self._loading.cancel()
        await asyncio.wait({self._loading}, timeout=_END_S)
        if not self._loading.done():
            self.load.errors.append(f"clients still wait {_END_S} s after everything was healed")
            self._loading.cancel()
            await asyncio.wait({self._loading})
        elif kind is None:
            self._loading.result()

    async def outcome(self, blows: int) -> Outcome:
        """Wait for the rest, and judge."""
        tasks = await settle(self._fleet.routers, self.history, bound_s=_END_S)
        outcome = Outcome(
            seed=self._setting.seed,
            blows=blows,
            tasks=tasks,
            verdict=self.history.verdict(),
            errors=self.load.errors,
            deaths=self._fleet.deaths,
            seconds=self.seconds,
            notes=self.notes,
        )
        if not outcome.clean and self._setting.postgres is not None:
            self._setting.postgres.dump(self._fleet.database, self._setting.folder / "tasks.sql")
        return outcome


def _fleet(setting: Setting) -> Fleet:
    several = 2 if setting.postgres else 1
    return Fleet(
        setting.folder,
        database=setting.postgres.new_database() if setting.postgres else "",
        routers=2,
        runners=2,
        llms=2,
        storages=several,
        settings={
            "AGENTMESH_TASKS__LEASE_TTL_S": str(LEASE_S),
            # Blows may leave no llm-proxy for longer than three attempts last, while a busy machine starts one.
            "AGENTMESH_TASKS__MAX_ATTEMPTS": "10",
            "AGENTMESH_RUNNER__AGENTS": str(Path(agents_for_tests.__file__)),
            **setting.settings,
        },
    )
