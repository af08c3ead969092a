-- How each time-partitioned table is kept. A room adds its rows in its own migration; operators edit them.
CREATE TABLE partitions.policies (
  table_name varchar(127) PRIMARY KEY,
  make_ahead_days integer NOT NULL DEFAULT 14,
  keep_days integer DEFAULT 30,
  on_expiry varchar(10) NOT NULL DEFAULT 'archive',
  created_at timestamptz NOT NULL DEFAULT now(),
  updated_at timestamptz NOT NULL DEFAULT now(),
  CONSTRAINT valid_table_name CHECK (table_name ~ '^[a-z_][a-z0-9_]*\.[a-z_][a-z0-9_]*$'),
  CONSTRAINT valid_make_ahead_days CHECK (make_ahead_days BETWEEN 1 AND 400),
  CONSTRAINT valid_keep_days CHECK (keep_days >= 1),
  CONSTRAINT valid_on_expiry CHECK (on_expiry IN ('archive', 'drop', 'keep'))
);
COMMENT ON COLUMN partitions.policies.keep_days IS 'days kept after a partition''s last moment; NULL keeps all';
COMMENT ON COLUMN partitions.policies.on_expiry IS
  'archive: drop only what is archived and verified; drop: drop without an archive; keep: never drop';
CREATE TRIGGER touch BEFORE UPDATE ON partitions.policies
  FOR EACH ROW WHEN (OLD.* IS DISTINCT FROM NEW.*) EXECUTE FUNCTION touch_updated_at();
