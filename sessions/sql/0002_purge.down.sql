ALTER FUNCTION sessions.purge_expired(integer) RESET enable_partition_pruning;
