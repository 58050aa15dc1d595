-- What a task's model calls cost, and which of their tokens went into caches and thinking.
-- runs-with: 2
ALTER TABLE tasks ADD COLUMN cache_write_tokens INTEGER NOT NULL DEFAULT 0;
ALTER TABLE tasks ADD COLUMN reasoning_tokens INTEGER NOT NULL DEFAULT 0;
ALTER TABLE tasks ADD COLUMN cost_nano_usd INTEGER NOT NULL DEFAULT 0;
