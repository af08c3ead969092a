ALTER TABLE bridge.outbox DROP COLUMN strategy;
ALTER TABLE bridge.quarantine DROP COLUMN strategy;
DELETE FROM bridge.conflict WHERE strategy <> 'last_write_wins' OR winner <> 'postgresql';
ALTER TABLE bridge.conflict
  DROP CONSTRAINT valid_winner,
  DROP COLUMN winner,
  DROP CONSTRAINT valid_strategy,
  ADD CONSTRAINT valid_strategy CHECK (strategy IN ('last_write_wins'));
