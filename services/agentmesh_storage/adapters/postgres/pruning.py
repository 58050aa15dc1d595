"""Forgets what is kept long enough, a small batch at a time; one storage process at a time does."""

from agentmesh_storage.adapters.postgres.pool import Pool
from agentmesh_storage.ports import Pruned, Retention

_LOCK = 0x7072756E  # "prun"
_OLD_LOGS = """
SELECT id FROM tasks WHERE end_ms IS NOT NULL AND pruned_sequence = 0 AND end_ms < $1
ORDER BY end_ms LIMIT $2 FOR NO KEY UPDATE SKIP LOCKED"""
# A parent that still runs may ask for its children again.
_OLD_TASKS = """
SELECT id FROM tasks AS t WHERE end_ms IS NOT NULL AND end_ms < $1
  AND (SELECT parent.end_ms IS NOT NULL FROM tasks AS parent WHERE parent.id = t.parent_id) IS NOT FALSE
ORDER BY end_ms LIMIT $2 FOR UPDATE SKIP LOCKED"""
_OLD_REQUESTS = """
UPDATE tasks SET request_open = false WHERE id = ANY(ARRAY(
  SELECT id FROM tasks WHERE end_ms IS NOT NULL AND request_id <> '' AND request_open AND end_ms < $1
  ORDER BY end_ms LIMIT $2 FOR NO KEY UPDATE SKIP LOCKED)) RETURNING 1"""
_OLD_RUNNERS = "DELETE FROM runners WHERE freed AND lease_until_ms < $1"


async def prune(pool: Pool, now_ms: int, retention: Retention) -> Pruned:
    """See TaskStore."""
    pruned, batch = Pruned(), retention.batch
    async with pool.transaction() as db:
        if not await db.fetchval("SELECT pg_try_advisory_xact_lock($1)", _LOCK):
            return pruned
        logs = [row[0] for row in await db.fetch(_OLD_LOGS, now_ms - retention.events_ms, batch)]
        old = [row[0] for row in await db.fetch(_OLD_TASKS, now_ms - retention.tasks_ms, batch)]
        if logs or old:
            both = list({*logs, *old})
            await db.execute("DELETE FROM event_chunks WHERE task_id = ANY($1::text[])", both)
            await db.execute("DELETE FROM steps WHERE task_id = ANY($1::text[])", both)
            await db.execute("UPDATE tasks SET pruned_sequence = last_sequence WHERE id = ANY($1::text[])", logs)
        if old:
            await db.execute("DELETE FROM task_labels WHERE task_id = ANY($1::text[])", old)
            gone = await db.fetch(
                "DELETE FROM artifacts WHERE task_id = ANY($1::text[]) AND task_id <> '' RETURNING id", old
            )
            pruned.artifact_ids = [artifact_id for (artifact_id,) in gone]
            await db.execute("DELETE FROM tasks WHERE id = ANY($1::text[])", old)
        before_ms = now_ms - retention.request_ids_ms
        pruned.requests = len(await db.fetch(_OLD_REQUESTS, before_ms, batch))
        await db.execute(_OLD_RUNNERS, before_ms)
    pruned.logs, pruned.tasks = len(logs), len(old)
    pruned.more = batch in (pruned.logs, pruned.tasks, pruned.requests)
    return pruned
