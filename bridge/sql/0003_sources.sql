-- A bucket that agents write, as the flusher reads it. Revisions count from 1 again in a bucket that was made anew, so a
-- position is (epoch, revision), and the epoch is when the bucket was made.
CREATE TABLE bridge.sources (
  bucket text PRIMARY KEY,
  kv_epoch bigint NOT NULL DEFAULT 0,
  flushed_sequence bigint NOT NULL DEFAULT 0,
  updated_at timestamptz NOT NULL DEFAULT now(),
  CONSTRAINT valid_position CHECK (kv_epoch >= 0 AND flushed_sequence >= 0)
);
COMMENT ON COLUMN bridge.sources.kv_epoch IS 'when the bucket was made, in microseconds since 1970; 0: not seen yet';
COMMENT ON COLUMN bridge.sources.flushed_sequence IS
  'everything up to here in the stream FLUSH_<bucket> of this epoch is committed here; more may be';
INSERT INTO bridge.sources (bucket) VALUES ('AGENT_STATE'), ('SESSION_DATA');
