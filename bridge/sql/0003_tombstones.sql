-- The position of a key that is gone, so that an older write of an agent, delivered again, does not bring it back. Kept
-- until it is older than all that a FLUSH stream holds.
CREATE TABLE bridge.tombstones (
  bucket text NOT NULL,
  key text NOT NULL,
  kv_epoch bigint NOT NULL,
  kv_revision bigint NOT NULL,
  deleted_at timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (bucket, key),
  CONSTRAINT valid_position CHECK (kv_epoch >= 0 AND kv_revision >= 0)
) WITH (autovacuum_vacuum_scale_factor = 0.05);
-- the purge
CREATE INDEX idx_bridge_tombstones_age ON bridge.tombstones (deleted_at);
