-- What PostgreSQL has committed and JetStream has not seen yet. Triggers insert, the relay deletes by explicit id; the
-- order of ids is right per key, because the second writer of a key waits for the first one's row lock before its own
-- trigger takes an id. That needs the identity's default CACHE 1.
CREATE TABLE bridge.outbox (
  outbox_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  target text NOT NULL,
  key text NOT NULL,
  op "char" NOT NULL,
  base_revision bigint,
  payload jsonb,
  created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  CONSTRAINT valid_op CHECK (op IN ('U', 'D', 'E')),
  CONSTRAINT payload_unless_deleted CHECK ((payload IS NULL) = (op = 'D'))
) WITH (autovacuum_vacuum_scale_factor = 0.01);
COMMENT ON COLUMN bridge.outbox.target IS 'U and D: the KV bucket; E: the stream';
COMMENT ON COLUMN bridge.outbox.key IS 'U and D: the key in the bucket; E: the whole subject';
COMMENT ON COLUMN bridge.outbox.op IS 'U: the key holds payload; D: the key is gone; E: an event, never coalesced';
COMMENT ON COLUMN bridge.outbox.base_revision IS
  'the KV revision that the writer had seen; NULL: PostgreSQL owns the bucket, nothing to compare';
