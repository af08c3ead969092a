-- Conflicts know how they were settled and who won. An edit may ask for a strategy of its own:
-- SET LOCAL bridge.strategy = 'reject'.
ALTER TABLE bridge.outbox ADD COLUMN strategy text DEFAULT NULLIF(current_setting('bridge.strategy', true), '');
COMMENT ON COLUMN bridge.outbox.strategy IS
  'how to settle a conflict of this row: last_write_wins, timestamp or reject; NULL: as the rules say';
ALTER TABLE bridge.quarantine ADD COLUMN strategy text;

ALTER TABLE bridge.conflict
  DROP CONSTRAINT valid_strategy,
  ADD CONSTRAINT valid_strategy CHECK (strategy IN ('last_write_wins', 'timestamp', 'reject', 'fenced')) NOT VALID,
  ADD COLUMN winner text NOT NULL DEFAULT 'postgresql',
  ADD CONSTRAINT valid_winner CHECK (winner IN ('postgresql', 'agent')) NOT VALID;
ALTER TABLE bridge.conflict VALIDATE CONSTRAINT valid_strategy;
ALTER TABLE bridge.conflict VALIDATE CONSTRAINT valid_winner;
COMMENT ON COLUMN bridge.conflict.strategy IS
  'fenced: the agent''s write came from an older epoch, a successor had taken over';
COMMENT ON COLUMN bridge.conflict.outbox_id IS 'the row that collided; NULL: found by reconcile, or fenced';
COMMENT ON COLUMN bridge.conflict.pg_value IS 'what PostgreSQL had; NULL: a delete';
