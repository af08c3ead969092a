-- A cross-system backup hangs on the base or incremental one that its WAL goes on from, up to its restore point.
ALTER TABLE recovery.backups
  DROP CONSTRAINT incremental_has_parent,
  DROP CONSTRAINT physical_has_a_range,
  ADD CONSTRAINT incremental_has_parent CHECK ((kind IN ('incremental', 'cross_system')) = (parent_id IS NOT NULL)),
  ADD CONSTRAINT physical_has_a_range CHECK (
    kind NOT IN ('base', 'incremental', 'cross_system') OR completed_at IS NULL
    OR (system_identifier IS NOT NULL AND timeline > 0 AND start_lsn >= 0 AND end_lsn > start_lsn));
