-- One action on many rows, done in batches by the workers. A batch, its counts and the place to go on from (`position`)
-- are one transaction, so that a runner may be killed anywhere and the next one goes on without doing anything twice.
CREATE TABLE operators.bulk_jobs (
  job_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  action text NOT NULL,
  parameters jsonb NOT NULL DEFAULT '{}',
  reason text NOT NULL DEFAULT '',
  requested_by text NOT NULL,
  via text NOT NULL,
  status text NOT NULL DEFAULT 'queued',
  expected bigint NOT NULL DEFAULT 0,
  done bigint NOT NULL DEFAULT 0,
  failed bigint NOT NULL DEFAULT 0,
  position jsonb,
  error text,
  created_at timestamptz NOT NULL DEFAULT now(),
  started_at timestamptz,
  finished_at timestamptz,
  CONSTRAINT valid_bulk_status CHECK (status IN ('queued', 'running', 'finished', 'failed', 'cancelled')),
  CONSTRAINT valid_bulk_via CHECK (via IN ('admin', 'command', 'job', 'api')),
  CONSTRAINT valid_bulk_counts CHECK (done >= 0 AND failed >= 0 AND expected >= 0),
  CONSTRAINT finished_bulk_job CHECK ((finished_at IS NOT NULL) = (status IN ('finished', 'failed', 'cancelled')))
);
-- what still has to be done, oldest first
CREATE INDEX idx_operators_bulk_jobs_open ON operators.bulk_jobs (job_id) WHERE status IN ('queued', 'running');
