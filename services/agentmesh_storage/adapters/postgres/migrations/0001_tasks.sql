-- Tasks, their logs and journals, leases of runners and routers, agents, artifacts with their bytes.
CREATE TABLE tasks (
  id text COLLATE "C" NOT NULL PRIMARY KEY,
  tenant text COLLATE "C" NOT NULL,
  agent text COLLATE "C" NOT NULL,
  spec bytea NOT NULL,
  create_ms bigint NOT NULL,
  priority integer NOT NULL,
  request_id text COLLATE "C" NOT NULL,
  request_hash bytea NOT NULL,
  context_id text COLLATE "C" NOT NULL,
  parent_id text COLLATE "C" NOT NULL,
  parent_step text COLLATE "C" NOT NULL,
  retry_of text COLLATE "C" NOT NULL,
  traceparent text NOT NULL,
  timeout_ms bigint NOT NULL,
  state integer NOT NULL,
  agent_version text NOT NULL,
  attempt integer NOT NULL,
  failures integer NOT NULL,
  losses integer NOT NULL,
  last_sequence bigint NOT NULL,
  kept_sequence bigint NOT NULL,
  acked_offset bigint NOT NULL,
  incarnation text COLLATE "C" NOT NULL,
  router text COLLATE "C" NOT NULL,
  ready_ms bigint,
  due boolean NOT NULL,
  queue_deadline_ms bigint,
  start_ms bigint,
  deadline_ms bigint,
  end_ms bigint,
  cancel_ms bigint,
  result bytea NOT NULL,
  error bytea NOT NULL,
  input_request bytea NOT NULL,
  input_id text NOT NULL,
  limited_by text NOT NULL,
  pruned_sequence bigint NOT NULL,
  request_open boolean NOT NULL,
  input_tokens bigint NOT NULL,
  output_tokens bigint NOT NULL,
  cached_input_tokens bigint NOT NULL,
  llm_calls bigint NOT NULL
) WITH (fillfactor = 80, autovacuum_vacuum_scale_factor = 0.05, autovacuum_vacuum_cost_delay = 0);
CREATE UNIQUE INDEX tasks_by_request ON tasks (tenant, request_id) WHERE request_id <> '' AND request_open;
CREATE UNIQUE INDEX tasks_by_parent_step ON tasks (parent_id, parent_step) WHERE parent_id <> '';
CREATE INDEX tasks_by_tenant ON tasks (tenant, id);
CREATE INDEX tasks_by_end ON tasks (tenant, end_ms, id) WHERE end_ms IS NOT NULL;
CREATE INDEX tasks_by_context ON tasks (tenant, context_id, id) WHERE context_id <> '';
-- Negated, so that the order of the index is that of the claims.
CREATE INDEX tasks_ready ON tasks (agent, (-priority), tenant, ready_ms, id) WHERE ready_ms IS NOT NULL AND due;
CREATE INDEX tasks_waiting ON tasks (tenant) WHERE ready_ms IS NOT NULL AND due;
CREATE INDEX tasks_delayed ON tasks (ready_ms) WHERE ready_ms IS NOT NULL AND NOT due;
CREATE INDEX tasks_queue_deadline ON tasks (queue_deadline_ms) WHERE queue_deadline_ms IS NOT NULL;
CREATE INDEX tasks_parked ON tasks (deadline_ms) WHERE end_ms IS NULL AND incarnation = '' AND ready_ms IS NULL;
CREATE INDEX tasks_leased ON tasks (incarnation) WHERE incarnation <> '';
CREATE INDEX tasks_overdue ON tasks (deadline_ms) WHERE incarnation <> '';
CREATE INDEX tasks_unpruned ON tasks (end_ms) WHERE end_ms IS NOT NULL AND pruned_sequence = 0;
CREATE INDEX tasks_ended ON tasks (end_ms) WHERE end_ms IS NOT NULL;
CREATE INDEX tasks_request_open ON tasks (end_ms) WHERE end_ms IS NOT NULL AND request_id <> '' AND request_open;

CREATE TABLE task_labels (
  tenant text COLLATE "C" NOT NULL,
  name text COLLATE "C" NOT NULL,
  value text COLLATE "C" NOT NULL,
  task_id text COLLATE "C" NOT NULL,
  PRIMARY KEY (tenant, name, value, task_id)
);
CREATE INDEX task_labels_by_task ON task_labels (task_id);

-- `events` is a serialised EventList; router and storage pass it on as it is.
CREATE TABLE event_chunks (
  task_id text COLLATE "C" NOT NULL,
  first_sequence bigint NOT NULL,
  attempt integer NOT NULL,
  count integer NOT NULL,
  events bytea NOT NULL,
  PRIMARY KEY (task_id, first_sequence)
);

-- `record` is a serialised StepRecord; `sequence` is that of its step_completed event.
CREATE TABLE steps (
  task_id text COLLATE "C" NOT NULL,
  sequence bigint NOT NULL,
  key text COLLATE "C" NOT NULL,
  record bytea NOT NULL,
  PRIMARY KEY (task_id, sequence, key)
);

CREATE TABLE runners (
  incarnation text COLLATE "C" NOT NULL PRIMARY KEY,
  name text COLLATE "C" NOT NULL,
  lease_until_ms bigint NOT NULL,
  freed boolean NOT NULL
) WITH (fillfactor = 50);
CREATE INDEX runners_by_name ON runners (name) WHERE NOT freed;

CREATE TABLE agents (
  name text COLLATE "C" NOT NULL PRIMARY KEY,
  agent bytea NOT NULL
);

CREATE TABLE artifacts (
  id text COLLATE "C" NOT NULL PRIMARY KEY,
  tenant text COLLATE "C" NOT NULL,
  task_id text COLLATE "C" NOT NULL,
  name text NOT NULL,
  media_type text NOT NULL,
  size_bytes bigint NOT NULL,
  sha256 text NOT NULL,
  create_ms bigint NOT NULL,
  visible boolean NOT NULL
);
CREATE INDEX artifacts_by_tenant ON artifacts (tenant, id);
CREATE INDEX artifacts_by_task ON artifacts (task_id, id) WHERE task_id <> '';
CREATE INDEX artifacts_pending ON artifacts (create_ms) WHERE NOT visible;

-- Bytes of artifacts in pieces; every storage process reads them here, whichever wrote them.
CREATE TABLE artifact_pieces (
  artifact_id text COLLATE "C" NOT NULL,
  start bigint NOT NULL,
  content bytea NOT NULL,
  PRIMARY KEY (artifact_id, start)
);
ALTER TABLE artifact_pieces ALTER COLUMN content SET STORAGE EXTERNAL;
