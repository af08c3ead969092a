DROP FUNCTION partitions.uuid7();
DROP FUNCTION partitions.uuid7_at(timestamptz);
DROP FUNCTION partitions.uuid7_floor(timestamptz);
DROP FUNCTION partitions.uuid7_time(uuid);
