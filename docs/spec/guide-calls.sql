-- The guide's own calls, verbatim (13.2: its nine partitions), and one call of each view and function that it defines,
-- with the guide's arguments. A test runs this file through psql and stops at the first error.

-- 13.2
-- Create initial partitions for time-based tables
SELECT partitions.create_time_partition('agents.lifecycle_events', CURRENT_DATE - 1);
SELECT partitions.create_time_partition('agents.lifecycle_events', CURRENT_DATE);
SELECT partitions.create_time_partition('agents.lifecycle_events', CURRENT_DATE + 1);

SELECT partitions.create_time_partition('tasks.executions', CURRENT_DATE - 1);
SELECT partitions.create_time_partition('tasks.executions', CURRENT_DATE);
SELECT partitions.create_time_partition('tasks.executions', CURRENT_DATE + 1);

SELECT partitions.create_time_partition('messages.log', CURRENT_DATE - 1);
SELECT partitions.create_time_partition('messages.log', CURRENT_DATE);
SELECT partitions.create_time_partition('messages.log', CURRENT_DATE + 1);

SELECT partitions.create_time_partition('messages.log', CURRENT_DATE - 60, '1 day'::INTERVAL);
SELECT partitions.manage_time_partitions('messages.log');
SELECT partitions.manage_time_partitions('messages.log', 30, 7);

-- 2.2 (the function lives in schema agents)
SELECT key, value FROM agents.hydrate_agent_state(gen_random_uuid());

-- 9.1
SELECT validate_agent_metadata('{"created_at": "2026-01-02T03:04:05Z", "version": "1"}');

-- 12.2
SELECT * FROM monitoring.connection_stats;
SELECT * FROM monitoring.check_connection_pool_health();

-- 13.3
SELECT * FROM monitoring.analyze_index_usage();
SELECT * FROM monitoring.suggest_missing_indexes();

-- 14.2
SELECT recovery.prepare_pitr(NOW() - INTERVAL '1 hour', '/backup/postgresql');
SELECT * FROM recovery.validate_recovery_readiness('/backup/postgresql', NOW() - INTERVAL '1 hour');

-- 14.4
SELECT recovery.record_test_result('pitr', NOW() - INTERVAL '1 day');
SELECT recovery.record_test_result(
  'full_restore', NOW() - INTERVAL '1 day', NULL, 'passed', TRUE, '{"restore_seconds": 12}'::JSONB, 'weekly');
SELECT * FROM recovery.verify_data_consistency();
