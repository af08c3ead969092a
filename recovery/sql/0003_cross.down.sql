DELETE FROM recovery.backups WHERE kind = 'cross_system';
ALTER TABLE recovery.backups
  DROP CONSTRAINT incremental_has_parent,
  DROP CONSTRAINT physical_has_a_range,
  ADD CONSTRAINT incremental_has_parent CHECK ((kind = 'incremental') = (parent_id IS NOT NULL)),
  ADD CONSTRAINT physical_has_a_range CHECK (
    kind NOT IN ('base', 'incremental') OR completed_at IS NULL
    OR (system_identifier IS NOT NULL AND timeline > 0 AND start_lsn >= 0 AND end_lsn > start_lsn));
