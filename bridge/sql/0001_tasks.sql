-- A task as KV and its events show it. One place, so that both always agree.
CREATE FUNCTION bridge.task_payload(
  p_task_id uuid, p_task_type text, p_status task_status_type, p_status_reason text, p_priority task_priority_type,
  p_attempt integer, p_worker uuid, p_retry_count integer, p_progress jsonb, p_started_at timestamptz,
  p_completed_at timestamptz)
RETURNS jsonb LANGUAGE sql STABLE PARALLEL SAFE AS $$
  SELECT jsonb_build_object(
    'task_id', p_task_id, 'task_type', p_task_type, 'status', p_status, 'status_reason', p_status_reason,
    'priority', p_priority, 'attempt', p_attempt, 'worker', p_worker, 'retry_count', p_retry_count,
    'progress', p_progress, 'started_at', p_started_at, 'completed_at', p_completed_at)
$$;

-- TASK_STATE: renewing a lease, or touching columns that are not shown, sends nothing.
SELECT bridge.capture_table('tasks.queue', 'TASK_STATE', 'task_id::text',
  'ROW(task_type, status, status_reason, priority, attempt, worker, retry_count, progress, started_at, completed_at)',
  'bridge.task_payload(task_id, task_type, status, status_reason, priority, attempt, worker, retry_count, progress, '
  'started_at, completed_at)');

-- tasks.created.<id>, tasks.started.<id>.<agent>, tasks.completed.<id>.<agent>, tasks.failed.<id>.<reason> and
-- tasks.cancelled.<id> on the stream TASK_EXECUTION. The agent of a finished task is the one that held it.
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
CREATE TRIGGER bridge_events_insert AFTER INSERT ON tasks.queue REFERENCING NEW TABLE AS new_rows
  FOR EACH STATEMENT EXECUTE FUNCTION bridge.capture_task_created();
CREATE TRIGGER bridge_events_update AFTER UPDATE ON tasks.queue REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows
  FOR EACH STATEMENT EXECUTE FUNCTION bridge.capture_task_moved();

SELECT partitions.copy_statement_triggers(inhparent, inhrelid) FROM pg_inherits WHERE inhparent = 'tasks.queue'::regclass;
