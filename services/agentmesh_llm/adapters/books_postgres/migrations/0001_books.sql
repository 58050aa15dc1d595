-- Virtual keys of the llm-proxy, and what was used, added up by day.
CREATE TABLE llm_keys (
  id text PRIMARY KEY,
  tenant text NOT NULL,
  name text NOT NULL,
  sha256 text NOT NULL UNIQUE,
  hint text NOT NULL,
  models text NOT NULL,
  budget_day bigint NOT NULL,
  budget_month bigint NOT NULL,
  requests_per_minute bigint NOT NULL,
  tokens_per_minute bigint NOT NULL,
  created_ms bigint NOT NULL,
  expires_ms bigint NOT NULL,
  revoked_ms bigint NOT NULL
);
CREATE INDEX llm_keys_of_tenant ON llm_keys (tenant, created_ms);

CREATE TABLE llm_usage (
  tenant text NOT NULL,
  day text NOT NULL,
  key_id text NOT NULL,
  model text NOT NULL,
  requests bigint NOT NULL,
  calls bigint NOT NULL,
  input_tokens bigint NOT NULL,
  output_tokens bigint NOT NULL,
  cached_input_tokens bigint NOT NULL,
  cache_write_tokens bigint NOT NULL,
  reasoning_tokens bigint NOT NULL,
  cost_nano_usd bigint NOT NULL,
  PRIMARY KEY (tenant, day, key_id, model)
);
CREATE INDEX llm_usage_by_day ON llm_usage (day);

-- The same for what was asked on behalf of tasks; kept for as long as ended tasks are.
CREATE TABLE llm_task_usage (
  tenant text NOT NULL,
  task_id text NOT NULL,
  day text NOT NULL,
  key_id text NOT NULL,
  model text NOT NULL,
  requests bigint NOT NULL,
  calls bigint NOT NULL,
  input_tokens bigint NOT NULL,
  output_tokens bigint NOT NULL,
  cached_input_tokens bigint NOT NULL,
  cache_write_tokens bigint NOT NULL,
  reasoning_tokens bigint NOT NULL,
  cost_nano_usd bigint NOT NULL,
  PRIMARY KEY (tenant, task_id, day, key_id, model)
);
CREATE INDEX llm_task_usage_by_day ON llm_task_usage (day);
