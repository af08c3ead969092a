-- A value that an agent wrote to KV and that a write from PostgreSQL replaced, although its writer had not seen it.
CREATE TABLE bridge.conflict (
  conflict_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  outbox_id bigint,
  target text NOT NULL,
  key text NOT NULL,
  strategy text NOT NULL DEFAULT 'last_write_wins',
  base_revision bigint NOT NULL,
  kv_revision bigint NOT NULL,
  kv_value text,
  pg_value jsonb,
  noticed_at timestamptz NOT NULL DEFAULT now(),
  CONSTRAINT valid_strategy CHECK (strategy IN ('last_write_wins')),
  CONSTRAINT newer_revision CHECK (kv_revision > base_revision),
  CONSTRAINT one_record_per_collision UNIQUE (outbox_id, kv_revision)
);
COMMENT ON COLUMN bridge.conflict.outbox_id IS 'the row that won; NULL: found by reconcile';
COMMENT ON COLUMN bridge.conflict.kv_value IS 'what the agent had written; NULL: it had deleted the key';
COMMENT ON COLUMN bridge.conflict.pg_value IS 'what replaced it; NULL: a delete';
