-- the extension stays: it may have been here before us
DROP FUNCTION monitoring.suggest_missing_indexes(bigint, numeric);
DROP FUNCTION monitoring.analyze_index_usage();
DROP FUNCTION monitoring.check_connection_pool_health();
DROP VIEW monitoring.connection_stats;
