DROP TABLE recovery.restore_points;
DROP TABLE recovery.archive_state;
DROP TABLE recovery.timelines;
DROP TABLE recovery.wal_segments;
-- the table knew only logical backups: the entries beside the data bring the others back
DELETE FROM recovery.backups WHERE kind IN ('base', 'incremental');
ALTER TABLE recovery.backups
  DROP CONSTRAINT physical_has_a_range, DROP CONSTRAINT incremental_has_parent,
  DROP COLUMN has_wal, DROP COLUMN end_lsn, DROP COLUMN start_lsn, DROP COLUMN timeline,
  DROP COLUMN system_identifier, DROP COLUMN parent_id;
