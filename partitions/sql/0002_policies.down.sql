ALTER TABLE partitions.policies
  DROP CONSTRAINT not_too_many_ahead,
  DROP CONSTRAINT valid_partition_interval,
  DROP COLUMN partition_interval,
  DROP COLUMN is_overridden;
