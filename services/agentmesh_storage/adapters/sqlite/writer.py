"""Everything that writes to the SQLite file; runs on the one writer thread."""

import json
import sqlite3
from collections.abc import Iterable, Sequence

from agentmesh.kit.errors import MeshError
from agentmesh_storage import claims, consequences, leases
from agentmesh_storage.adapters.rows import (
    CANDIDATE_COLUMNS,
    COLUMNS,
    MOVING,
    TASK_COLUMNS,
    insert_values,
    moving_values,
    to_tasks,
)
from agentmesh_storage.adapters.schedule_rows import BATCH
from agentmesh_storage.adapters.sqlite import schedules
from agentmesh_storage.adapters.wanted import Wanted, wanted_by
from agentmesh_storage.domain import Claimed, Mutation, Offer, Outcome, Runner, Task
from agentmesh_storage.ledger import Ledger
from agentmesh_storage.ports import News, news_of
from agentmesh_storage.rules import Rules

_DEADLINE_GRACE_MS = 5_000  # runner and router end a task in time; storage does when both are gone
_SWEEP_LIMIT = 500

_INSERT_TASK = f"INSERT INTO tasks ({TASK_COLUMNS}) VALUES ({', '.join('?' * len(COLUMNS))})"
_UPDATE_TASK = f"UPDATE tasks SET {', '.join(f'{column} = ?' for column in MOVING)} WHERE id = ?"
_BY_ID = f"SELECT {TASK_COLUMNS} FROM tasks WHERE id IN (SELECT value FROM json_each(?))"
_BY_REQUEST = (
    f"SELECT {TASK_COLUMNS} FROM tasks WHERE tenant = ? AND request_id = ? AND request_id <> '' AND request_open = 1"
)
_BY_PARENT_STEP = f"SELECT {TASK_COLUMNS} FROM tasks WHERE parent_id = ? AND parent_step = ? AND parent_id <> ''"
_ANSWERED = "SELECT 1 FROM steps WHERE task_id = ? AND key = ?"
_LEASED = f"SELECT {TASK_COLUMNS} FROM tasks WHERE incarnation = ? AND incarnation <> ''"
_CHILDREN = f"SELECT {TASK_COLUMNS} FROM tasks WHERE parent_id = ? AND parent_id <> '' AND end_ms IS NULL"
_HIGHEST = 1_000_000  # above every priority
_IS_DUE = "ready_ms IS NOT NULL AND due = 1"
# One step from a priority, or a tenant, to the next, past everything between.
_NEXT_PRIORITY = (
    f"SELECT -priority FROM tasks WHERE agent = ? AND {_IS_DUE} AND -priority > ? ORDER BY -priority LIMIT 1"
)
_NEXT_TENANT = (
    f"SELECT tenant FROM tasks WHERE agent = ? AND {_IS_DUE} AND -priority = ? AND tenant > ? ORDER BY tenant LIMIT 1"
)
_FIRST_TENANT = _NEXT_TENANT.replace("tenant > ?", "tenant >= ?")
_READY = (
    f"SELECT {CANDIDATE_COLUMNS} FROM tasks WHERE agent = ? AND {_IS_DUE} AND -priority = ? AND tenant = ? "
    "ORDER BY ready_ms, id LIMIT ?"
)
_READY_AGENTS = f"SELECT name FROM agents WHERE EXISTS (SELECT 1 FROM tasks WHERE agent = name AND {_IS_DUE})"
_MAKE_DUE = "UPDATE tasks SET due = 1 WHERE ready_ms IS NOT NULL AND due = 0 AND ready_ms <= ?"
_RUNNING = (
    "SELECT tenant, agent, limited_by, count(*) FROM tasks WHERE incarnation <> '' GROUP BY tenant, agent, limited_by"
)
# Each part reads a partial index that holds only the tasks it is about.
_OVERDUE = tuple(
    f"SELECT {TASK_COLUMNS} FROM tasks WHERE {condition} LIMIT {_SWEEP_LIMIT}"
    for condition in (
        "queue_deadline_ms IS NOT NULL AND queue_deadline_ms < :now",
        "incarnation <> '' AND deadline_ms < :now - :grace",
        "end_ms IS NULL AND incarnation = '' AND ready_ms IS NULL AND deadline_ms < :now",
    )
)
_EXPIRED_RUNNERS = "SELECT incarnation, name, lease_until_ms, freed FROM runners WHERE freed = 0 AND lease_until_ms < ?"
_NAMESAKES = "SELECT incarnation, name, lease_until_ms, freed FROM runners WHERE name = ? AND freed = 0"
_RUNNERS = "SELECT incarnation, name, lease_until_ms, freed FROM runners WHERE incarnation = ?"


class Writer:
    """Writes to one connection. Every public method is one transaction."""

    def __init__(self, connection: sqlite3.Connection, rules: Rules) -> None:
        self._db = connection
        self._rules = rules
        self._turns = claims.Turns(rules)

    def commit(self, mutations: Sequence[Mutation], now_ms: int) -> tuple[list[Outcome | MeshError], News]:
        """Apply mutations in order."""
        with _Transaction(self._db):
            ledger = Ledger(now_ms, self._rules)
            self._load(ledger, wanted_by(mutations))
            schedules.load(self._db, ledger, mutations)
            outcomes = [ledger.apply(mutation) for mutation in mutations]
            self._settle(ledger)
            self._write(ledger)
        return outcomes, news_of(ledger)

    def claim(self, offers: Sequence[Offer], now_ms: int) -> tuple[list[Claimed], News]:
        """Start attempts of ready tasks."""
        with _Transaction(self._db):
            self._db.execute(_MAKE_DUE, (now_ms,))
            ledger = Ledger(now_ms, self._rules)
            self._load_runners(ledger, _RUNNERS, {offer.incarnation for offer in offers})
            claimed = self._drive(ledger, claims.give(ledger, offers, self._room(), self._turns))
            self._settle(ledger)
            self._write(ledger)
        return claimed, news_of(ledger)

    def sweep(self, now_ms: int, *, expire_leases: bool) -> News:
        """Free runners, end overdue tasks, look for ready work."""
        with _Transaction(self._db):
            self._db.execute(_MAKE_DUE, (now_ms,))
            ledger = Ledger(now_ms, self._rules)
            if expire_leases:
                for row in self._db.execute(_EXPIRED_RUNNERS, (now_ms,)).fetchall():
                    leases.free(ledger, _runner(row))
            parameters = {"now": now_ms, "grace": _DEADLINE_GRACE_MS}
            overdue = [task for sql in _OVERDUE for task in to_tasks(self._db.execute(sql, parameters))]
            ledger.tasks.update((task.id, task) for task in overdue)
            self._load_ids(ledger, {task.parent_id for task in overdue})
            for task in overdue:
                ledger.expire_if_due(task)
            self._settle(ledger)
            self._write(ledger)
            ready = {agent for (agent,) in self._db.execute(_READY_AGENTS)}
        news = news_of(ledger)
        news.ready_agents |= ready
        return news

    def fire(self, now_ms: int) -> tuple[News, bool]:
        """Make the tasks of schedules that are due."""
        due = schedules.due(self._db, now_ms)  # nobody else writes: what is read now still holds below
        if not due:
            return News(), False
        with _Transaction(self._db):
            ledger = Ledger(now_ms, self._rules)
            schedules.fire(self._db, ledger, due)
            self._settle(ledger)
            self._write(ledger)
        return news_of(ledger), len(due) >= BATCH

    def execute(self, sql: str, parameters: tuple[object, ...]) -> list[tuple[object, ...]]:
        """Run one statement in a transaction of its own."""
        with _Transaction(self._db):
            return self._db.execute(sql, parameters).fetchall()

    def _room(self) -> claims.Room:
        room = claims.Room(self._rules)
        for tenant, agent, limited_by, count in self._db.execute(_RUNNING) if self._rules.any_bound else ():
            room.add(agent, tenant, limited_by, count)
        return room

    def _drive(self, ledger: Ledger, giving: claims.Giving) -> list[Claimed]:
        """Answer what is asked until everything is given."""
        try:
            asked = next(giving)
            while True:
                asked = giving.send(self._answer(ledger, asked))
        except StopIteration as given:
            claimed: list[Claimed] = given.value
            return claimed

    def _answer(self, ledger: Ledger, asked: claims.Asked) -> claims.Answer:
        match asked:
            case claims.ListPriorities(agent):
                return self._priorities(agent)
            case claims.ListTenants():
                return self._tenants(asked)
            case claims.ListReady(agent, priority, tenants, limit):
                found = []
                for tenant in tenants:
                    found += self._db.execute(_READY, (agent, -priority, tenant, limit)).fetchall()
                return [claims.Candidate(*row) for row in found]
            case claims.LoadChosen(ids):
                self._load_ids(ledger, ids)
                self._load_ids(ledger, {ledger.tasks[task_id].parent_id for task_id in ids})
                return None

    def _priorities(self, agent: str) -> list[int]:
        found: list[int] = []
        urgency = -_HIGHEST
        while row := self._db.execute(_NEXT_PRIORITY, (agent, urgency)).fetchone():
            (urgency,) = row
            found.append(-urgency)
        return found

    def _tenants(self, asked: claims.ListTenants) -> list[str]:
        found: list[str] = []
        row = self._db.execute(_FIRST_TENANT, (asked.agent, -asked.priority, asked.start)).fetchone()
        wrapped = False
        while len(found) < claims.MAX_TENANTS:
            if row is None and not wrapped:
                row, wrapped = self._db.execute(_FIRST_TENANT, (asked.agent, -asked.priority, "")).fetchone(), True
            if row is None or (wrapped and row[0] >= asked.start):
                break
            found.append(row[0])
            row = self._db.execute(_NEXT_TENANT, (asked.agent, -asked.priority, row[0])).fetchone()
        return found

    # -- rows in -----------------------------------------------------------------------------------------

    def _load(self, ledger: Ledger, wanted: Wanted) -> None:
        for key in wanted.requests:
            for twin in self._load_tasks(ledger, _BY_REQUEST, key):
                ledger.by_request[key] = twin
        for key in wanted.parent_steps:
            for twin in self._load_tasks(ledger, _BY_PARENT_STEP, key):
                ledger.by_parent_step[key] = twin
        for key in wanted.answers:
            if self._db.execute(_ANSWERED, key).fetchone():
                ledger.answered.add(key)
        self._load_ids(ledger, wanted.tasks)
        self._load_ids(ledger, {task.parent_id for task in ledger.tasks.values()})
        self._load_runners(ledger, _RUNNERS, wanted.leases | wanted.changing)
        self._load_runners(ledger, _NAMESAKES, wanted.names)

    def _load_runners(self, ledger: Ledger, sql: str, keys: Iterable[str]) -> None:
        for key in keys:
            for row in self._db.execute(sql, (key,)):
                ledger.runners[row[0]] = _runner(row)

    def _load_ids(self, ledger: Ledger, ids: Iterable[str]) -> None:
        missing = [task_id for task_id in ids if task_id and task_id not in ledger.tasks]
        if missing:
            self._load_tasks(ledger, _BY_ID, (json.dumps(missing),))

    def _load_tasks(self, ledger: Ledger, sql: str, parameters: tuple[str, ...]) -> list[Task]:
        """Take rows in; a task that the ledger holds already stays as it is there."""
        return [ledger.tasks.setdefault(task.id, task) for task in to_tasks(self._db.execute(sql, parameters))]

    def _settle(self, ledger: Ledger) -> None:
        for needed in consequences.follow(ledger):
            match needed:
                case consequences.LoadLeased(incarnation):
                    self._load_tasks(ledger, _LEASED, (incarnation,))
                case consequences.LoadTasks(ids):
                    self._load_ids(ledger, ids)
                case consequences.LoadLeases(incarnations):
                    self._load_runners(ledger, _RUNNERS, incarnations)
                case consequences.LoadChildren(parent_id):
                    self._load_tasks(ledger, _CHILDREN, (parent_id,))

    # -- rows out ----------------------------------------------------------------------------------------

    def _write(self, ledger: Ledger) -> None:
        db = self._db
        if ledger.created:
            db.executemany(_INSERT_TASK, [insert_values(c.task) for c in ledger.created.values()])
            labels = [
                (c.task.tenant, name, value, c.task.id)
                for c in ledger.created.values()
                for name, value in c.labels.items()
            ]
            if labels:
                db.executemany("INSERT INTO task_labels VALUES (?, ?, ?, ?)", labels)
        changed = [(*moving_values(t), t.id) for t in ledger.changed.values() if t.id not in ledger.created]
        if changed:
            db.executemany(_UPDATE_TASK, changed)
        if ledger.chunks:
            db.executemany(
                "INSERT INTO event_chunks (task_id, first_sequence, attempt, count, events) VALUES (?, ?, ?, ?, ?)",
                [(c.task_id, c.first_sequence, c.attempt, c.count, c.events) for c in ledger.chunks],
            )
        if ledger.steps:
            db.executemany(
                "INSERT OR IGNORE INTO steps (task_id, sequence, key, record) VALUES (?, ?, ?, ?)",
                [(s.task_id, s.sequence, s.key, s.record) for s in ledger.steps],
            )
        for old, new in ledger.journals_to_copy:
            db.execute(
                "INSERT INTO steps (task_id, sequence, key, record) "
                "SELECT ?, sequence - 1000000000, key, record FROM steps WHERE task_id = ?",
                (new, old),
            )
        self._write_others(ledger)
        schedules.write(db, ledger)

    def _write_others(self, ledger: Ledger) -> None:
        db = self._db
        if ledger.visible_artifacts:
            db.executemany("UPDATE artifacts SET visible = 1 WHERE id = ?", [(i,) for i in ledger.visible_artifacts])
        if ledger.changed_runners:
            db.executemany(
                "INSERT OR REPLACE INTO runners VALUES (?, ?, ?, ?)",
                [(r.incarnation, r.name, r.lease_until_ms, r.freed) for r in ledger.changed_runners.values()],
            )
        if ledger.agents:
            db.executemany("INSERT OR REPLACE INTO agents VALUES (?, ?)", ledger.agents)


class _Transaction:
    """BEGIN IMMEDIATE … COMMIT, or ROLLBACK."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._db = connection

    def __enter__(self) -> None:
        self._db.execute("BEGIN IMMEDIATE")

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None:
                self._db.execute("COMMIT")
        finally:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")


def _runner(row: Iterable[object]) -> Runner:
    incarnation, name, until, freed = row
    return Runner(str(incarnation), str(name), int(until), bool(freed))  # type: ignore[call-overload]
