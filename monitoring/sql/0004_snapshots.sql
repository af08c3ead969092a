-- What was, for trends: figures of one moment. Daily partitions, made and dropped by the upkeep of the partitions room.
CREATE TABLE monitoring.snapshots (
  snapshot_id uuid PRIMARY KEY,
  kind text NOT NULL,
  data jsonb NOT NULL,
  CONSTRAINT valid_snapshot_kind CHECK (kind IN ('load', 'growth'))
) PARTITION BY RANGE (snapshot_id);
INSERT INTO partitions.policies (table_name, make_ahead_days, keep_days, on_expiry)
VALUES ('monitoring.snapshots', 14, 90, 'drop');
SELECT partitions.create_time_partition('monitoring.snapshots', (now() AT TIME ZONE 'UTC')::date + n)
FROM generate_series(-1, 14) n;
