DELETE FROM partitions.policies WHERE table_name = 'monitoring.snapshots';
DROP TABLE monitoring.snapshots;
