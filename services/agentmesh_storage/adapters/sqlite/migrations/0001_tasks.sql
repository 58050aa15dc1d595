-- Tasks, their logs and journals, runners, agents and artifacts.
CREATE TABLE tasks (
  id TEXT NOT NULL PRIMARY KEY,
  tenant TEXT NOT NULL,
  agent TEXT NOT NULL,
  spec BLOB NOT NULL,
  create_ms INTEGER NOT NULL,
  priority INTEGER NOT NULL,
  request_id TEXT NOT NULL,
  request_hash BLOB NOT NULL,
  context_id TEXT NOT NULL,
  parent_id TEXT NOT NULL,
  parent_step TEXT NOT NULL,
  retry_of TEXT NOT NULL,
  traceparent TEXT NOT NULL,
  timeout_ms INTEGER NOT NULL,
  state INTEGER NOT NULL,
  agent_version TEXT NOT NULL,
  attempt INTEGER NOT NULL,
  failures INTEGER NOT NULL,
  losses INTEGER NOT NULL,
  last_sequence INTEGER NOT NULL,
  kept_sequence INTEGER NOT NULL,
  acked_offset INTEGER NOT NULL,
  incarnation TEXT NOT NULL,
  ready_ms INTEGER,
  queue_deadline_ms INTEGER,
  start_ms INTEGER,
  deadline_ms INTEGER,
  end_ms INTEGER,
  cancel_ms INTEGER,
  result BLOB NOT NULL,
  error BLOB NOT NULL,
  input_request BLOB NOT NULL,
  input_id TEXT NOT NULL,
  input_tokens INTEGER NOT NULL,
  output_tokens INTEGER NOT NULL,
  cached_input_tokens INTEGER NOT NULL,
  llm_calls INTEGER NOT NULL
);
CREATE UNIQUE INDEX tasks_by_request ON tasks (tenant, request_id) WHERE request_id <> '';
CREATE UNIQUE INDEX tasks_by_parent_step ON tasks (parent_id, parent_step) WHERE parent_id <> '';
CREATE INDEX tasks_by_tenant ON tasks (tenant, id);
CREATE INDEX tasks_by_end ON tasks (tenant, end_ms, id) WHERE end_ms IS NOT NULL;
CREATE INDEX tasks_by_context ON tasks (tenant, context_id, id) WHERE context_id <> '';
CREATE INDEX tasks_ready ON tasks (agent, priority DESC, ready_ms, id) WHERE ready_ms IS NOT NULL;
CREATE INDEX tasks_queue_deadline ON tasks (queue_deadline_ms) WHERE queue_deadline_ms IS NOT NULL;
CREATE INDEX tasks_parked ON tasks (deadline_ms) WHERE end_ms IS NULL AND incarnation = '' AND ready_ms IS NULL;
CREATE INDEX tasks_leased ON tasks (incarnation) WHERE incarnation <> '';

CREATE TABLE task_labels (
  tenant TEXT NOT NULL,
  name TEXT NOT NULL,
  value TEXT NOT NULL,
  task_id TEXT NOT NULL,
  PRIMARY KEY (tenant, name, value, task_id)
) WITHOUT ROWID;

-- `events` is a serialised EventList; router and storage pass it on as it is.
CREATE TABLE event_chunks (
  task_id TEXT NOT NULL,
  first_sequence INTEGER NOT NULL,
  attempt INTEGER NOT NULL,
  count INTEGER NOT NULL,
  events BLOB NOT NULL,
  PRIMARY KEY (task_id, first_sequence)
) WITHOUT ROWID;

-- `record` is a serialised StepRecord; `sequence` is that of its step_completed event.
CREATE TABLE steps (
  task_id TEXT NOT NULL,
  sequence INTEGER NOT NULL,
  key TEXT NOT NULL,
  record BLOB NOT NULL,
  PRIMARY KEY (task_id, sequence, key)
) WITHOUT ROWID;

CREATE TABLE runners (
  incarnation TEXT NOT NULL PRIMARY KEY,
  name TEXT NOT NULL,
  lease_until_ms INTEGER NOT NULL,
  freed INTEGER NOT NULL
) WITHOUT ROWID;

CREATE TABLE agents (
  name TEXT NOT NULL PRIMARY KEY,
  agent BLOB NOT NULL
) WITHOUT ROWID;

CREATE TABLE artifacts (
  id TEXT NOT NULL PRIMARY KEY,
  tenant TEXT NOT NULL,
  task_id TEXT NOT NULL,
  name TEXT NOT NULL,
  media_type TEXT NOT NULL,
  size_bytes INTEGER NOT NULL,
  sha256 TEXT NOT NULL,
  create_ms INTEGER NOT NULL,
  visible INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX artifacts_by_tenant ON artifacts (tenant, id);
CREATE INDEX artifacts_by_task ON artifacts (task_id, id) WHERE task_id <> '';
CREATE INDEX artifacts_pending ON artifacts (create_ms) WHERE visible = 0;
