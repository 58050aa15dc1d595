"""Everything that writes to the SQLite file; runs on the one writer thread."""

import json
import sqlite3
from collections.abc import Iterable, Sequence

from agentmesh.kit.errors import MeshError
from agentmesh_storage import claims, leases
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
from agentmesh_storage.domain import (
    AppendEvents,
    Claim,
    Claimed,
    CreateTask,
    FreeRunner,
    GiveInput,
    Mutation,
    Offer,
    Outcome,
    RenewLease,
    Runner,
    SpawnTask,
    Task,
)
from agentmesh_storage.ledger import Ledger
from agentmesh_storage.ports import News, news_of
from agentmesh_storage.rules import Rules

_DEADLINE_GRACE_MS = 5_000  # runner and router end a task in time; storage does when both are gone
_SWEEP_LIMIT = 500
_MAX_CLAIM_BYTES = 1024 * 1024  # of specs: one reply holds what one claim gives

_INSERT_TASK = f"INSERT INTO tasks ({TASK_COLUMNS}) VALUES ({', '.join('?' * len(COLUMNS))})"
_UPDATE_TASK = f"UPDATE tasks SET {', '.join(f'{column} = ?' for column in MOVING)} WHERE id = ?"
_BY_ID = f"SELECT {TASK_COLUMNS} FROM tasks WHERE id IN (SELECT value FROM json_each(?))"
_BY_REQUEST = (
    f"SELECT {TASK_COLUMNS} FROM tasks WHERE tenant = ? AND request_id = ? AND request_id <> '' AND request_open = 1"
)
_BY_PARENT_STEP = f"SELECT {TASK_COLUMNS} FROM tasks WHERE parent_id = ? AND parent_step = ? AND parent_id <> ''"
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
            ledger = self._load(mutations, now_ms)
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
            self._load_runners(ledger, {offer.incarnation for offer in offers})
            claimed: list[Claimed] = []
            max_bytes = _MAX_CLAIM_BYTES
            room, taken = self._room(), set[str]()
            for offer in offers:
                # A lease that was lost meanwhile is never swept again: nobody would miss what it gets.
                if ledger.lives(offer.incarnation) and max_bytes > 0:
                    given = self._start_attempts(ledger, offer, room, taken, max_bytes)
                    max_bytes -= sum(len(claim.task.spec) for claim in given)
                    claimed.extend(given)
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
            self._load_ids(ledger, {task.parent_id for task in overdue if task.parent_id})
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

    def _start_attempts(
        self, ledger: Ledger, offer: Offer, room: claims.Room, taken: set[str], max_bytes: int
    ) -> list[Claimed]:
        chosen = [candidate.id for candidate in self._choose(claims.rounds(offer, room, self._turns, taken))]
        self._load_ids(ledger, set(chosen))
        self._load_ids(ledger, {ledger.tasks[i].parent_id for i in chosen if ledger.tasks[i].parent_id})
        claimed = []
        for task in [ledger.tasks[task_id] for task_id in chosen]:
            if max_bytes <= 0:
                break
            if not ledger.expire_if_due(task):
                chunk = ledger.start_attempt(task, Claim(offer.incarnation, offer.agent_version, offer.router))
                claimed.append(Claimed(task, chunk))
                max_bytes -= len(task.spec)
        return claimed

    def _choose(self, rounds: claims.Rounds) -> list[claims.Candidate]:
        """Answer what the choice asks until it is made."""
        try:
            asked = next(rounds)
            while True:
                asked = rounds.send(self._answer(asked))
        except StopIteration as made:
            chosen: list[claims.Candidate] = made.value
            return chosen

    def _answer(self, asked: claims.Asked) -> claims.Answer:
        if isinstance(asked, claims.ListPriorities):
            return self._priorities(asked.agent)
        if isinstance(asked, claims.ListTenants):
            return self._tenants(asked)
        found = []
        for tenant in asked.tenants:
            found += self._db.execute(_READY, (asked.agent, -asked.priority, tenant, asked.limit)).fetchall()
        return [claims.Candidate(*row) for row in found]

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

    def _load(self, mutations: Sequence[Mutation], now_ms: int) -> Ledger:
        ledger = Ledger(now_ms, self._rules)
        ids: set[str] = set()
        incarnations: set[str] = set()
        for mutation in mutations:
            change = mutation.change
            if isinstance(change, AppendEvents):
                ids.add(change.task_id)
                ids.update(change.awaited_task_ids)
                if change.passivate and change.input_id:
                    self._load_answer(ledger, change.task_id, change.input_id)
            elif isinstance(change, CreateTask):
                if change.task.request_id:
                    self._load_request(ledger, change)
                if change.claim is not None:
                    incarnations.add(change.claim.incarnation)
            elif isinstance(change, SpawnTask):
                ids.add(change.parent_id)
                if change.child.claim is not None:
                    incarnations.add(change.child.claim.incarnation)
                key = (change.parent_id, change.step_key)
                for twin in to_tasks(self._db.execute(_BY_PARENT_STEP, key)):
                    ledger.by_parent_step[key] = ledger.tasks.setdefault(twin.id, twin)
            elif isinstance(change, RenewLease | FreeRunner):
                incarnations.add(change.incarnation)
                if isinstance(change, RenewLease):
                    for row in self._db.execute(_NAMESAKES, (change.name,)):
                        ledger.runners[row[0]] = _runner(row)
            elif isinstance(change, GiveInput):
                ids.add(change.task_id)
                self._load_answer(ledger, change.task_id, change.input_id)
            elif hasattr(change, "task_id"):
                ids.add(change.task_id)
        self._load_ids(ledger, ids)
        self._load_ids(ledger, {t.parent_id for t in list(ledger.tasks.values()) if t.parent_id})
        self._load_runners(ledger, incarnations)
        return ledger

    def _load_runners(self, ledger: Ledger, incarnations: set[str]) -> None:
        for incarnation in incarnations:
            for row in self._db.execute(_RUNNERS, (incarnation,)):
                ledger.runners[incarnation] = _runner(row)

    def _load_ids(self, ledger: Ledger, ids: set[str]) -> None:
        missing = [task_id for task_id in ids if task_id not in ledger.tasks]
        if missing:
            for task in to_tasks(self._db.execute(_BY_ID, (json.dumps(missing),))):
                ledger.tasks[task.id] = task

    def _load_request(self, ledger: Ledger, change: CreateTask) -> None:
        key = (change.task.tenant, change.task.request_id)
        for twin in to_tasks(self._db.execute(_BY_REQUEST, key)):
            ledger.by_request[key] = ledger.tasks.setdefault(twin.id, twin)

    def _load_answer(self, ledger: Ledger, task_id: str, input_id: str) -> None:
        if self._db.execute("SELECT 1 FROM steps WHERE task_id = ? AND key = ?", (task_id, input_id)).fetchone():
            ledger.answered.add((task_id, input_id))

    # -- what follows from what was applied -------------------------------------------------------------

    def _settle(self, ledger: Ledger) -> None:
        """Take tasks from freed runners and stop the children of tasks that ended badly."""
        for incarnation in ledger.freed:
            for task in self._leased(ledger, incarnation):
                leases.lose(ledger, task)
        for router, sync, created in ledger.synced:
            held = self._leased(ledger, sync.incarnation)
            self._load_runners(ledger, {task.router for task in held} - ledger.runners.keys())
            for task in held:
                if leases.is_stray(ledger, task, router, sync, created):
                    leases.hand_back(ledger, task)
        position = 0
        while position < len(ledger.ended_badly):
            parent_id = ledger.ended_badly[position]
            position += 1
            self._adopt(ledger, to_tasks(self._db.execute(_CHILDREN, (parent_id,))))
            for child in [task for task in ledger.tasks.values() if task.parent_id == parent_id]:
                if not child.state.terminal:
                    ledger.cancel(child)

    def _leased(self, ledger: Ledger, incarnation: str) -> list[Task]:
        """Return what a runner holds, also what it got in this transaction, with the parents loaded."""
        stored = self._adopt(ledger, to_tasks(self._db.execute(_LEASED, (incarnation,))))
        self._load_ids(ledger, {task.parent_id for task in stored if task.parent_id})
        return [task for task in ledger.tasks.values() if task.incarnation == incarnation]

    @staticmethod
    def _adopt(ledger: Ledger, tasks: list[Task]) -> list[Task]:
        return [ledger.tasks.setdefault(task.id, task) for task in tasks]

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
