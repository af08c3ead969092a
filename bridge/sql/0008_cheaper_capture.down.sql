CREATE OR REPLACE FUNCTION bridge.capture_task_update() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF bridge.is_echo() THEN
    RETURN NULL;
  END IF;
  INSERT INTO bridge.outbox (target, key, op, payload, event)
  SELECT x.target, x.key, x.op, x.payload, x.event
  FROM (
    SELECT n.task_id::text AS key, n.worker, o.worker AS was_held_by, bridge.task_payload(
             n.task_id, n.task_type, n.status, n.status_reason, n.priority, n.attempt, n.worker, n.retry_count, n.progress,
             n.started_at, n.completed_at) AS payload,
           CASE WHEN n.status = o.status THEN NULL
             WHEN n.status = 'running' OR n.status = 'completed' THEN
               CASE n.status WHEN 'running' THEN 'tasks.started.' ELSE 'tasks.completed.' END || n.task_id || '.'
               || COALESCE(n.worker::text, o.worker::text, n.assigned_agent_id::text, 'unknown')
             WHEN n.status = 'failed' THEN 'tasks.failed.' || n.task_id || '.' || bridge.slug(n.status_reason)
             WHEN n.status = 'cancelled' THEN 'tasks.cancelled.' || n.task_id END AS event
    FROM new_rows n FULL JOIN old_rows o USING (task_id)
    WHERE ROW(n.status, n.status_reason, n.priority, n.attempt, n.worker, n.retry_count, n.progress, n.started_at,
              n.completed_at)
      IS DISTINCT FROM ROW(o.status, o.status_reason, o.priority, o.attempt, o.worker, o.retry_count, o.progress,
              o.started_at, o.completed_at)
    OFFSET 0) t
  CROSS JOIN LATERAL (VALUES
    ('TASK_STATE', t.key, 'U'::"char", t.payload,
     CASE WHEN t.worker IS NOT NULL OR t.was_held_by IS NULL THEN t.event END),
    ('TASK_EXECUTION', CASE WHEN t.worker IS NULL AND t.was_held_by IS NOT NULL THEN t.event END, 'E',
     CASE WHEN t.worker IS NULL AND t.was_held_by IS NOT NULL AND t.event IS NOT NULL
       THEN t.payload || jsonb_build_object('worker', t.was_held_by) END, NULL)) x (target, key, op, payload, event)
  WHERE x.key IS NOT NULL;
  RETURN NULL;
END $$;
