DROP FUNCTION partitions.copy_statement_triggers(regclass, regclass);
DROP FUNCTION partitions.manage_time_partitions(text, integer, integer);
DROP FUNCTION partitions.retention_plan(text, integer);
DROP FUNCTION partitions.create_time_partition(text, date, interval);
DROP VIEW partitions.ranges;
