-- The bridges that run, and what their parts measured: seen by pages and metrics of other processes. A row that was not
-- renewed for some seconds is of a bridge that is gone.
CREATE TABLE bridge.processes (
  process_id uuid PRIMARY KEY,
  host text NOT NULL,
  pid integer NOT NULL,
  started_at timestamptz NOT NULL DEFAULT now(),
  seen_at timestamptz NOT NULL DEFAULT now(),
  figures jsonb NOT NULL DEFAULT '{}'
) WITH (fillfactor = 50);
COMMENT ON COLUMN bridge.processes.figures IS 'by part: relay, flusher <bucket>, the readers, nats';
