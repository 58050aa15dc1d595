-- Schedules, and which task is of which.
-- runs-with: 2
ALTER TABLE tasks ADD COLUMN schedule_id TEXT NOT NULL DEFAULT '';
CREATE INDEX tasks_by_schedule ON tasks (tenant, schedule_id, id) WHERE schedule_id <> '';
CREATE INDEX tasks_of_schedule_unfinished ON tasks (schedule_id) WHERE schedule_id <> '' AND end_ms IS NULL;

-- `spec` is a serialised ScheduleSpec without its task, `task_spec` that task's; `labels` are JSON.
CREATE TABLE schedules (
  id TEXT NOT NULL PRIMARY KEY,
  tenant TEXT NOT NULL,
  spec BLOB NOT NULL,
  task_spec BLOB NOT NULL,
  agent TEXT NOT NULL,
  request_id TEXT NOT NULL,
  request_hash BLOB NOT NULL,
  cron TEXT NOT NULL,
  interval_ms INTEGER NOT NULL,
  time_zone TEXT NOT NULL,
  overlap INTEGER NOT NULL,
  catch_up_ms INTEGER NOT NULL,
  start_ms INTEGER,
  end_ms INTEGER,
  priority INTEGER NOT NULL,
  timeout_ms INTEGER NOT NULL,
  queue_timeout_ms INTEGER NOT NULL,
  context_id TEXT NOT NULL,
  labels TEXT NOT NULL,
  create_ms INTEGER NOT NULL,
  paused INTEGER NOT NULL,
  next_ms INTEGER,
  waiting_ms INTEGER,
  last_ms INTEGER,
  last_task_id TEXT NOT NULL,
  fired INTEGER NOT NULL,
  skipped INTEGER NOT NULL,
  missed INTEGER NOT NULL
);
CREATE UNIQUE INDEX schedules_by_request ON schedules (tenant, request_id) WHERE request_id <> '';
CREATE INDEX schedules_by_tenant ON schedules (tenant, id);
CREATE INDEX schedules_due ON schedules (next_ms) WHERE next_ms IS NOT NULL;
CREATE INDEX schedules_waiting ON schedules (waiting_ms) WHERE waiting_ms IS NOT NULL;
