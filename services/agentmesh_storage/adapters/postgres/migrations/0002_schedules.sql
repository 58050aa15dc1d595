-- Schedules, and which task is of which.
-- runs-with: 1
ALTER TABLE tasks ADD COLUMN schedule_id text COLLATE "C" NOT NULL DEFAULT '';
CREATE INDEX tasks_by_schedule ON tasks (tenant, schedule_id, id) WHERE schedule_id <> '';
CREATE INDEX tasks_of_schedule_unfinished ON tasks (schedule_id) WHERE schedule_id <> '' AND end_ms IS NULL;

-- `spec` is a serialised ScheduleSpec without its task, `task_spec` that task's; `labels` are JSON.
CREATE TABLE schedules (
  id text COLLATE "C" NOT NULL PRIMARY KEY,
  tenant text COLLATE "C" NOT NULL,
  spec bytea NOT NULL,
  task_spec bytea NOT NULL,
  agent text NOT NULL,
  request_id text COLLATE "C" NOT NULL,
  request_hash bytea NOT NULL,
  cron text NOT NULL,
  interval_ms bigint NOT NULL,
  time_zone text NOT NULL,
  overlap integer NOT NULL,
  catch_up_ms bigint NOT NULL,
  start_ms bigint,
  end_ms bigint,
  priority integer NOT NULL,
  timeout_ms bigint NOT NULL,
  queue_timeout_ms bigint NOT NULL,
  context_id text NOT NULL,
  labels text NOT NULL,
  create_ms bigint NOT NULL,
  paused boolean NOT NULL,
  next_ms bigint,
  waiting_ms bigint,
  last_ms bigint,
  last_task_id text NOT NULL,
  fired bigint NOT NULL,
  skipped bigint NOT NULL,
  missed bigint NOT NULL
) WITH (fillfactor = 70);
CREATE UNIQUE INDEX schedules_by_request ON schedules (tenant, request_id) WHERE request_id <> '';
CREATE INDEX schedules_by_tenant ON schedules (tenant, id);
CREATE INDEX schedules_due ON schedules (next_ms) WHERE next_ms IS NOT NULL;
CREATE INDEX schedules_waiting ON schedules (waiting_ms) WHERE waiting_ms IS NOT NULL;
