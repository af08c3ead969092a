ALTER TABLE recovery.backups DROP COLUMN stored_at;
DROP TABLE recovery.uploads;
