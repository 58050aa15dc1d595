"""Everything that writes tasks to PostgreSQL: a transaction is a few reads that lock, the ledger, and one statement."""

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

from asyncpg import exceptions

from agentmesh.kit import names, telemetry
from agentmesh.kit.errors import InvalidRequest, MeshError, Unavailable
from agentmesh_storage import claims, consequences, leases
from agentmesh_storage.adapters.postgres import schedules
from agentmesh_storage.adapters.postgres import statements as sql
from agentmesh_storage.adapters.postgres.loading import load, load_runners, load_tasks, lock_missing
from agentmesh_storage.adapters.postgres.pool import Connection, Pool
from agentmesh_storage.adapters.rows import insert_values, moving_values
from agentmesh_storage.adapters.wanted import wanted_by
from agentmesh_storage.domain import Claimed, Mutation, Offer, Outcome, Runner, Task
from agentmesh_storage.ledger import Ledger
from agentmesh_storage.ports import News, news_of
from agentmesh_storage.rules import Rules

T = TypeVar("T")

log = telemetry.logger(__name__)

_conflicts = telemetry.counter(names.STORAGE_CONFLICTS_TOTAL, "Transactions that started over")

_TRIES = 6
_CLAIM_LOCK = 0x636C6169  # "clai": claims that count against a bound take turns
_SWEEP_LOCK = 0x73776565  # "swee": one storage process sweeps at a time
_STARTS_OVER = (exceptions.DeadlockDetectedError, exceptions.SerializationError, exceptions.UniqueViolationError)


class _RequestTaken(Exception):
    """Somebody else has inserted a task with the same request_id."""


class Writer:
    """Writes tasks. Every public method is one transaction, started over if it met another one's."""

    def __init__(self, pool: Pool, rules: Rules) -> None:
        self._pool = pool
        self._rules = rules
        self._turns = claims.Turns(rules)

    async def commit(self, mutations: Sequence[Mutation], now_ms: int) -> tuple[list[Outcome | MeshError], News]:
        """Apply mutations in order; one that the database can't hold is refused alone."""
        try:
            return await self._retried(lambda again: self._commit(mutations, now_ms, again))
        except (ValueError, exceptions.DataError) as error:
            log.warning("mutation_not_storable", mutations=len(mutations), kind=type(error).__name__)
            if len(mutations) == 1:
                refused = InvalidRequest("a text holds a character that can't be stored", reason="TEXT_NOT_STORABLE")
                return [refused], News()
        outcomes: list[Outcome | MeshError] = []
        news = News()
        for mutation in mutations:
            alone, of_it = await self.commit([mutation], now_ms)
            outcomes += alone
            news.add(of_it)
        return outcomes, news

    async def claim(self, offers: Sequence[Offer], now_ms: int) -> tuple[list[Claimed], News]:
        """Start attempts of ready tasks."""
        return await self._retried(lambda _: self._claim(offers, now_ms))

    async def sweep(self, now_ms: int, *, expire_leases: bool) -> News:
        """Free leases that are over, end overdue tasks (one process at a time does), look for ready work."""
        news = await self._retried(lambda _: self._sweep(now_ms, expire_leases=expire_leases))
        news.ready_agents |= {name for (name,) in await self._pool.fetch(sql.READY_AGENTS)}
        return news

    async def fire(self, now_ms: int) -> tuple[News, bool]:
        """Make the tasks of schedules that are due."""
        if not await schedules.any_due(self._pool, now_ms):
            return News(), False
        return await self._retried(lambda _: self._fire(now_ms))

    async def _retried(self, work: Callable[[bool], Awaitable[T]]) -> T:
        """Run a transaction until it meets no other; `work` is told whether it was tried before."""
        for attempt in range(_TRIES):
            try:
                return await work(attempt > 0)
            except (*_STARTS_OVER, _RequestTaken) as error:
                _conflicts.inc()
                log.info("transaction_starts_over", kind=type(error).__name__)
            await asyncio.sleep(random.uniform(0, 0.01 * 2**attempt))  # noqa: S311 - apart from the other one
        raise Unavailable("storage is too contended", reason="STORAGE_CONTENDED", retry_after_s=0.5)

    async def _commit(
        self, mutations: Sequence[Mutation], now_ms: int, again: bool
    ) -> tuple[list[Outcome | MeshError], News]:
        ledger = Ledger(now_ms, self._rules)
        async with self._pool.transaction() as db:
            # New request_ids are looked up only once one turned out to be taken: mostly they are new.
            await schedules.load(db, ledger, mutations)
            await load(db, ledger, wanted_by(mutations), requests=again)
            outcomes = [ledger.apply(mutation) for mutation in mutations]
            await self._settle(db, ledger)
            await self._write(db, ledger)
        return outcomes, news_of(ledger)

    async def _claim(self, offers: Sequence[Offer], now_ms: int) -> tuple[list[Claimed], News]:
        ledger = Ledger(now_ms, self._rules)
        async with self._pool.transaction() as db:
            await db.execute(sql.MAKE_DUE, now_ms)
            load_runners(ledger, await db.fetch(sql.SHARE_RUNNERS, [offer.incarnation for offer in offers]))
            claimed = await self._drive(db, ledger, claims.give(ledger, offers, await self._room(db), self._turns))
            await self._settle(db, ledger)
            await self._write(db, ledger)
        return claimed, news_of(ledger)

    async def _sweep(self, now_ms: int, *, expire_leases: bool) -> News:
        ledger = Ledger(now_ms, self._rules)
        async with self._pool.transaction() as db:
            if not await db.fetchval("SELECT pg_try_advisory_xact_lock($1)", _SWEEP_LOCK):
                return News()
            await db.execute(sql.MAKE_DUE, now_ms)
            if expire_leases:
                for row in await db.fetch(sql.LOCK_EXPIRED, now_ms):
                    leases.free(ledger, Runner(*row))
            overdue: list[Task] = []
            for statement in sql.OVERDUE:
                overdue += load_tasks(ledger, await db.fetch(statement, now_ms))
            await lock_missing(db, ledger, {task.parent_id for task in overdue})
            for task in overdue:
                ledger.expire_if_due(task)
            await self._settle(db, ledger)
            await self._write(db, ledger)
        return news_of(ledger)

    async def _fire(self, now_ms: int) -> tuple[News, bool]:
        ledger = Ledger(now_ms, self._rules)
        async with self._pool.transaction() as db:
            more = await schedules.fire(db, ledger)
            await self._settle(db, ledger)
            await self._write(db, ledger)
        return news_of(ledger), more

    # -- claims --------------------------------------------------------------------------------------------

    async def _room(self, db: Connection) -> claims.Room:
        room = claims.Room(self._rules)
        if self._rules.any_bound:
            await db.execute("SELECT pg_advisory_xact_lock($1)", _CLAIM_LOCK)
            for tenant, agent, limited_by, count in await db.fetch(sql.RUNNING):
                room.add(agent, tenant, limited_by, count)
        return room

    async def _drive(self, db: Connection, ledger: Ledger, giving: claims.Giving) -> list[Claimed]:
        """Answer what is asked until everything is given."""
        try:
            asked = next(giving)
            while True:
                asked = giving.send(await self._answer(db, ledger, asked))
        except StopIteration as given:
            claimed: list[Claimed] = given.value
            return claimed

    @staticmethod
    async def _answer(db: Connection, ledger: Ledger, asked: claims.Asked) -> claims.Answer:
        match asked:
            case claims.ListPriorities(agent):
                return [row[0] for row in await db.fetch(sql.PRIORITIES, agent)]
            case claims.ListTenants(agent, priority, start):
                rows = await db.fetch(sql.WAITING_TENANTS, agent, -priority, start, claims.MAX_TENANTS)
                return [row[0] for row in rows]
            case claims.ListReady(agent, priority, tenants, limit):
                rows = await db.fetch(sql.READY, agent, -priority, list(tenants), limit)
                return [claims.Candidate(*row) for row in rows]
            case claims.LoadChosen(ids):
                # Another process may have chosen the same ones; what it has locked is its own.
                chosen = load_tasks(ledger, await db.fetch(sql.LOCK_CHOSEN, ids))
                await lock_missing(db, ledger, {task.parent_id for task in chosen})
                return None

    # -- what follows from what was applied -------------------------------------------------------------

    @staticmethod
    async def _settle(db: Connection, ledger: Ledger) -> None:
        for needed in consequences.follow(ledger):
            match needed:
                case consequences.LoadLeased(incarnation):
                    load_tasks(ledger, await db.fetch(sql.LOCK_LEASED, incarnation))
                case consequences.LoadTasks(ids):
                    await lock_missing(db, ledger, ids)
                case consequences.LoadLeases(incarnations):
                    load_runners(ledger, await db.fetch(sql.RUNNERS, [*incarnations]))
                case consequences.LoadChildren(parent_id):
                    load_tasks(ledger, await db.fetch(sql.LOCK_CHILDREN, parent_id))

    # -- rows out ----------------------------------------------------------------------------------------

    async def _write(self, db: Connection, ledger: Ledger) -> None:
        rows: dict[str, list[Sequence[Any]]] = {
            "created": [insert_values(change.task) for change in ledger.created.values()],
            "changed": [(t.id, *moving_values(t)) for t in ledger.changed.values() if t.id not in ledger.created],
            "labels": [
                (change.task.tenant, name, value, change.task.id)
                for change in ledger.created.values()
                for name, value in change.labels.items()
            ],
            "chunks": [(c.task_id, c.first_sequence, c.attempt, c.count, c.events) for c in ledger.chunks],
            "steps": [(s.task_id, s.sequence, s.key, s.record) for s in ledger.steps],
        }
        parts = tuple(part for part in sql.PARTS if rows[part])
        if parts:
            columns = [column for part in parts for column in zip(*rows[part], strict=True)]
            inserted = await db.fetchval(sql.write_statement(parts), *columns)
            if inserted != len(rows["created"]):
                raise _RequestTaken
        for old, new in ledger.journals_to_copy:
            await db.execute(sql.COPY_JOURNAL, new, old)
        if ledger.visible_artifacts:
            await db.execute(sql.SHOW_ARTIFACTS, ledger.visible_artifacts)
        if ledger.changed_runners:
            runners = [(r.incarnation, r.name, r.lease_until_ms, r.freed) for r in ledger.changed_runners.values()]
            await db.execute(sql.WRITE_RUNNERS, *zip(*runners, strict=True))
        if ledger.agents:
            await db.execute(sql.WRITE_AGENTS, *zip(*dict(ledger.agents).items(), strict=True))
        await schedules.write(db, ledger)
