CREATE FUNCTION bridge.capture_task_created() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  INSERT INTO bridge.outbox (target, key, op, payload)
  SELECT 'TASK_EXECUTION', 'tasks.created.' || t.task_id, 'E',
         bridge.task_payload(t.task_id, t.task_type, t.status, t.status_reason, t.priority, t.attempt, t.worker,
                             t.retry_count, t.progress, t.started_at, t.completed_at)
  FROM new_rows t ORDER BY t.task_id;
  RETURN NULL;
END $$;
CREATE FUNCTION bridge.capture_task_moved() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  EXECUTE '
    INSERT INTO bridge.outbox (target, key, op, payload)
    SELECT ''TASK_EXECUTION'', CASE n.status
             WHEN ''running'' THEN format(''tasks.started.%s.%s'', n.task_id, h.holder)
             WHEN ''completed'' THEN format(''tasks.completed.%s.%s'', n.task_id, h.holder)
             WHEN ''failed'' THEN format(''tasks.failed.%s.%s'', n.task_id, bridge.slug(n.status_reason))
             WHEN ''cancelled'' THEN format(''tasks.cancelled.%s'', n.task_id) END, ''E'',
           bridge.task_payload(n.task_id, n.task_type, n.status, n.status_reason, n.priority, n.attempt,
                               COALESCE(n.worker, o.worker), n.retry_count, n.progress, n.started_at,
                               n.completed_at)
    FROM new_rows n JOIN old_rows o USING (task_id)
    CROSS JOIN LATERAL (SELECT COALESCE(n.worker::text, o.worker::text, n.assigned_agent_id::text, ''unknown'') AS holder) h
    WHERE n.status <> o.status AND n.status IN (''running'', ''completed'', ''failed'', ''cancelled'')';
  RETURN NULL;
END $$;

DO $$
DECLARE v_table regclass;
BEGIN
  FOR v_table IN SELECT relid FROM pg_partition_tree('tasks.queue') ORDER BY level, relid LOOP
    EXECUTE format('DROP TRIGGER bridge_insert ON %s', v_table);
    EXECUTE format('DROP TRIGGER bridge_update ON %s', v_table);
    EXECUTE format('DROP TRIGGER bridge_delete ON %s', v_table);
    EXECUTE format('DROP TRIGGER bridge_truncate ON %s', v_table);
  END LOOP;
END $$;
DROP FUNCTION bridge.capture_task_update();
DROP FUNCTION bridge.capture_task_insert();
SELECT bridge.capture_table('tasks.queue', 'TASK_STATE', 'task_id::text',
  'ROW(task_type, status, status_reason, priority, attempt, worker, retry_count, progress, started_at, completed_at)',
  'bridge.task_payload(task_id, task_type, status, status_reason, priority, attempt, worker, retry_count, progress, '
  'started_at, completed_at)');
CREATE TRIGGER bridge_events_insert AFTER INSERT ON tasks.queue REFERENCING NEW TABLE AS new_rows
  FOR EACH STATEMENT EXECUTE FUNCTION bridge.capture_task_created();
CREATE TRIGGER bridge_events_update AFTER UPDATE ON tasks.queue REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows
  FOR EACH STATEMENT EXECUTE FUNCTION bridge.capture_task_moved();
SELECT partitions.copy_statement_triggers(inhparent, inhrelid) FROM pg_inherits WHERE inhparent = 'tasks.queue'::regclass;
