-- Every run of upkeep that had something to do, or was asked for. `steps` is written after each step, so that a killed
-- run shows how far it came.
CREATE TABLE partitions.runs (
  run_id uuid PRIMARY KEY DEFAULT partitions.uuid7(),
  status varchar(12) NOT NULL DEFAULT 'running',
  origin varchar(10) NOT NULL,
  actor varchar(150) NOT NULL DEFAULT '',
  reason text NOT NULL DEFAULT '',
  started_at timestamptz NOT NULL DEFAULT now(),
  finished_at timestamptz,
  steps jsonb NOT NULL DEFAULT '[]',
  lock_wait_ms integer NOT NULL DEFAULT 0,
  error text,
  CONSTRAINT valid_status CHECK (status IN ('requested', 'running', 'done', 'failed', 'interrupted')),
  CONSTRAINT valid_origin CHECK (origin IN ('beat', 'command', 'admin')),
  CONSTRAINT finished_has_a_time CHECK ((finished_at IS NOT NULL) = (status IN ('done', 'failed'))),
  CONSTRAINT failed_has_an_error CHECK (status <> 'failed' OR COALESCE(error, '') <> ''),
  CONSTRAINT valid_lock_wait_ms CHECK (lock_wait_ms >= 0)
);
COMMENT ON COLUMN partitions.runs.steps IS
  'planned steps in order: action, object, why, and once tried: status, error, seconds, lock_wait_ms, tries';
