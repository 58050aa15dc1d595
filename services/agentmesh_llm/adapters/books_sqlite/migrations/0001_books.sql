-- Virtual keys of the llm-proxy, and what was used, added up by day.
CREATE TABLE llm_keys (
  id TEXT PRIMARY KEY,
  tenant TEXT NOT NULL,
  name TEXT NOT NULL,
  sha256 TEXT NOT NULL UNIQUE,
  hint TEXT NOT NULL,
  models TEXT NOT NULL,
  budget_day INTEGER NOT NULL,
  budget_month INTEGER NOT NULL,
  requests_per_minute INTEGER NOT NULL,
  tokens_per_minute INTEGER NOT NULL,
  created_ms INTEGER NOT NULL,
  expires_ms INTEGER NOT NULL,
  revoked_ms INTEGER NOT NULL
);
CREATE INDEX llm_keys_of_tenant ON llm_keys (tenant, created_ms);

CREATE TABLE llm_usage (
  tenant TEXT NOT NULL,
  day TEXT NOT NULL,
  key_id TEXT NOT NULL,
  model TEXT NOT NULL,
  requests INTEGER NOT NULL,
  calls INTEGER NOT NULL,
  input_tokens INTEGER NOT NULL,
  output_tokens INTEGER NOT NULL,
  cached_input_tokens INTEGER NOT NULL,
  cache_write_tokens INTEGER NOT NULL,
  reasoning_tokens INTEGER NOT NULL,
  cost_nano_usd INTEGER NOT NULL,
  PRIMARY KEY (tenant, day, key_id, model)
);
CREATE INDEX llm_usage_by_day ON llm_usage (day);

-- The same for what was asked on behalf of tasks; kept for as long as ended tasks are.
CREATE TABLE llm_task_usage (
  tenant TEXT NOT NULL,
  task_id TEXT NOT NULL,
  day TEXT NOT NULL,
  key_id TEXT NOT NULL,
  model TEXT NOT NULL,
  requests INTEGER NOT NULL,
  calls INTEGER NOT NULL,
  input_tokens INTEGER NOT NULL,
  output_tokens INTEGER NOT NULL,
  cached_input_tokens INTEGER NOT NULL,
  cache_write_tokens INTEGER NOT NULL,
  reasoning_tokens INTEGER NOT NULL,
  cost_nano_usd INTEGER NOT NULL,
  PRIMARY KEY (tenant, task_id, day, key_id, model)
);
CREATE INDEX llm_task_usage_by_day ON llm_task_usage (day);
