-- Claims by turns between tenants, limits on what runs at once, routers' leases, retention.
-- runs-with: 2
ALTER TABLE tasks ADD COLUMN router TEXT NOT NULL DEFAULT '';
ALTER TABLE tasks ADD COLUMN due INTEGER NOT NULL DEFAULT 0;
ALTER TABLE tasks ADD COLUMN limited_by TEXT NOT NULL DEFAULT '';
ALTER TABLE tasks ADD COLUMN pruned_sequence INTEGER NOT NULL DEFAULT 0;
ALTER TABLE tasks ADD COLUMN request_open INTEGER NOT NULL DEFAULT 1;
UPDATE tasks SET due = 1 WHERE ready_ms IS NOT NULL;
DROP INDEX tasks_ready;
-- Negated, so that the order of the index is that of the claims.
CREATE INDEX tasks_ready ON tasks (agent, -priority, tenant, ready_ms, id) WHERE ready_ms IS NOT NULL AND due = 1;
CREATE INDEX tasks_delayed ON tasks (ready_ms) WHERE ready_ms IS NOT NULL AND due = 0;
CREATE INDEX tasks_running ON tasks (tenant, agent) WHERE incarnation <> '';
DROP INDEX tasks_by_request;
CREATE UNIQUE INDEX tasks_by_request ON tasks (tenant, request_id) WHERE request_id <> '' AND request_open = 1;
CREATE INDEX tasks_request_open ON tasks (end_ms) WHERE end_ms IS NOT NULL AND request_id <> '' AND request_open = 1;
CREATE INDEX tasks_unpruned ON tasks (end_ms) WHERE end_ms IS NOT NULL AND pruned_sequence = 0;
CREATE INDEX tasks_ended ON tasks (end_ms) WHERE end_ms IS NOT NULL;
CREATE INDEX task_labels_by_task ON task_labels (task_id);
