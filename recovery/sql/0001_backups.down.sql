DROP TABLE recovery.backups;
