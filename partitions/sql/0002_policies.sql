-- Rooms declare policies on their models; what an operator changes by hand stays when the declaration changes.
ALTER TABLE partitions.policies
  ADD COLUMN partition_interval varchar(5) NOT NULL DEFAULT 'day',
  ADD COLUMN is_overridden boolean NOT NULL DEFAULT false,
  ADD CONSTRAINT valid_partition_interval CHECK (partition_interval IN ('hour', 'day', 'week', 'month')),
  ADD CONSTRAINT not_too_many_ahead CHECK (partition_interval <> 'hour' OR make_ahead_days <= 40);
UPDATE partitions.policies SET is_overridden = true WHERE updated_at > created_at;
COMMENT ON COLUMN partitions.policies.is_overridden IS 'false: follows what the room declares, after each migrate';
COMMENT ON COLUMN partitions.policies.partition_interval IS
  'length of new partitions, aligned in UTC, weeks to Mondays; partitions that exist keep theirs';
