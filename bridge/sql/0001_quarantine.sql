-- Outbox rows that NATS refuses for good (too large, impossible key). Later rows of the same key wait in the outbox until
-- somebody sends this one again or drops it; other keys flow.
CREATE TABLE bridge.quarantine (
  outbox_id bigint PRIMARY KEY,
  target text NOT NULL,
  key text NOT NULL,
  op "char" NOT NULL,
  base_revision bigint,
  payload jsonb,
  created_at timestamptz NOT NULL,
  error text NOT NULL,
  attempts integer NOT NULL,
  quarantined_at timestamptz NOT NULL DEFAULT now(),
  CONSTRAINT valid_attempts CHECK (attempts > 0)
);
-- the relay asks for each key that it reads
CREATE INDEX idx_bridge_quarantine_key ON bridge.quarantine (target, key);
