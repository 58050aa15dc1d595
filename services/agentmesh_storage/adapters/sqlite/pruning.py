"""Forgets what is kept long enough, a small batch at a time; runs on the one writer thread."""

import sqlite3

from agentmesh_storage.ports import Pruned, Retention

_OLD_LOGS = """
SELECT id FROM tasks WHERE end_ms IS NOT NULL AND pruned_sequence = 0 AND end_ms < ? ORDER BY end_ms LIMIT ?"""
# A parent that still runs may ask for its children again.
_OLD_TASKS = """
SELECT id FROM tasks AS t WHERE end_ms IS NOT NULL AND end_ms < ? AND NOT EXISTS
  (SELECT 1 FROM tasks AS parent WHERE parent.id = t.parent_id AND parent.end_ms IS NULL)
ORDER BY end_ms LIMIT ?"""
_OLD_REQUESTS = """
UPDATE tasks SET request_open = 0 WHERE id IN (
  SELECT id FROM tasks WHERE end_ms IS NOT NULL AND request_id <> '' AND request_open = 1 AND end_ms < ?
  ORDER BY end_ms LIMIT ?)"""
_OLD_RUNNERS = "DELETE FROM runners WHERE freed = 1 AND lease_until_ms < ?"


def prune(db: sqlite3.Connection, now_ms: int, retention: Retention) -> Pruned:
    """See TaskStore."""
    pruned = Pruned()
    db.execute("BEGIN IMMEDIATE")
    try:
        _prune(db, now_ms, retention, pruned)
        db.execute("COMMIT")
    finally:
        if db.in_transaction:
            db.execute("ROLLBACK")
    return pruned


def _prune(db: sqlite3.Connection, now_ms: int, retention: Retention, pruned: Pruned) -> None:
    batch = retention.batch
    logs = db.execute(_OLD_LOGS, (now_ms - retention.events_ms, batch)).fetchall()
    _forget_logs(db, logs)
    db.executemany("UPDATE tasks SET pruned_sequence = last_sequence WHERE id = ?", logs)
    old = db.execute(_OLD_TASKS, (now_ms - retention.tasks_ms, batch)).fetchall()
    _forget_logs(db, old)
    for (task_id,) in old:
        db.execute("DELETE FROM task_labels WHERE task_id = ?", (task_id,))
        gone = db.execute("DELETE FROM artifacts WHERE task_id = ? AND task_id <> '' RETURNING id", (task_id,))
        pruned.artifact_ids += [artifact_id for (artifact_id,) in gone.fetchall()]
    db.executemany("DELETE FROM tasks WHERE id = ?", old)
    pruned.requests = db.execute(_OLD_REQUESTS, (now_ms - retention.request_ids_ms, batch)).rowcount
    db.execute(_OLD_RUNNERS, (now_ms - retention.request_ids_ms,))
    pruned.logs, pruned.tasks = len(logs), len(old)
    pruned.more = batch in (pruned.logs, pruned.tasks, pruned.requests)


def _forget_logs(db: sqlite3.Connection, ids: list[tuple[str]]) -> None:
    db.executemany("DELETE FROM event_chunks WHERE task_id = ?", ids)
    db.executemany("DELETE FROM steps WHERE task_id = ?", ids)
