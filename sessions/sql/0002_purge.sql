-- It locks rows and deletes them by one statement. PostgreSQL 18 goes wrong where such a statement prunes partitions while it
-- runs (docs/decisions/0024); there are a handful, so it looks into each.
ALTER FUNCTION sessions.purge_expired(integer) SET enable_partition_pruning = off;
