CREATE OR REPLACE FUNCTION bridge.capture_task_insert() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF bridge.is_echo() THEN
    RETURN NULL;
  END IF;
  INSERT INTO bridge.outbox (target, key, op, payload)
  SELECT x.target, x.key, x.op, t.payload
  FROM (
    SELECT n.task_id, bridge.task_payload(
        n.task_id, n.task_type, n.status, n.status_reason, n.priority, n.attempt, n.worker, n.retry_count, n.progress,
        n.started_at, n.completed_at) AS payload
    FROM new_rows n) t
  CROSS JOIN LATERAL (VALUES ('TASK_STATE', t.task_id::text, 'U'::"char"),
                             ('TASK_EXECUTION', 'tasks.created.' || t.task_id, 'E')) x (target, key, op);
  RETURN NULL;
END $$;

CREATE OR REPLACE FUNCTION bridge.capture_task_update() RETURNS trigger LANGUAGE plpgsql SET enable_nestloop = off AS $$
BEGIN
  IF bridge.is_echo() THEN
    RETURN NULL;
  END IF;
  INSERT INTO bridge.outbox (target, key, op, payload)
  SELECT x.target, x.key, x.op, x.payload
  FROM (
    SELECT n.*, o.status AS was, COALESCE(n.worker, o.worker) AS held_by
    FROM new_rows n JOIN old_rows o USING (task_id)
    WHERE ROW(n.status, n.status_reason, n.priority, n.attempt, n.worker, n.retry_count, n.progress, n.started_at,
              n.completed_at)
      IS DISTINCT FROM ROW(o.status, o.status_reason, o.priority, o.attempt, o.worker, o.retry_count, o.progress,
              o.started_at, o.completed_at)) t
  CROSS JOIN LATERAL (VALUES
    ('TASK_STATE', t.task_id::text, 'U'::"char", bridge.task_payload(
      t.task_id, t.task_type, t.status, t.status_reason, t.priority, t.attempt, t.worker, t.retry_count, t.progress,
      t.started_at, t.completed_at)),
    ('TASK_EXECUTION', CASE WHEN t.status <> t.was THEN CASE t.status
        WHEN 'running' THEN format('tasks.started.%s.%s', t.task_id, COALESCE(t.held_by::text, t.assigned_agent_id::text, 'unknown'))
        WHEN 'completed' THEN format('tasks.completed.%s.%s', t.task_id, COALESCE(t.held_by::text, t.assigned_agent_id::text, 'unknown'))
        WHEN 'failed' THEN format('tasks.failed.%s.%s', t.task_id, bridge.slug(t.status_reason))
        WHEN 'cancelled' THEN format('tasks.cancelled.%s', t.task_id) END END, 'E', bridge.task_payload(
      t.task_id, t.task_type, t.status, t.status_reason, t.priority, t.attempt, t.held_by, t.retry_count, t.progress,
      t.started_at, t.completed_at))) x (target, key, op, payload)
  WHERE x.key IS NOT NULL;
  RETURN NULL;
END $$;

-- rows that carry an event become two: the value, and the event
DROP TRIGGER keep_event ON bridge.outbox;
WITH plain AS (UPDATE bridge.outbox o SET event = NULL FROM bridge.outbox w
               WHERE w.outbox_id = o.outbox_id AND w.event IS NOT NULL RETURNING w.event, w.payload, w.created_at)
INSERT INTO bridge.outbox (target, key, op, payload, created_at)
SELECT 'TASK_EXECUTION', event, 'E', payload, created_at FROM plain;
DROP FUNCTION bridge.forget(bigint[]);
DROP FUNCTION bridge.keep_event();
ALTER TABLE bridge.outbox DROP COLUMN event;
