-- One row per change of a task, for its value and its event: they carry the same JSON. The relay makes two messages of it and
-- settles it when JetStream has both.
ALTER TABLE bridge.outbox ADD COLUMN event text;
COMMENT ON COLUMN bridge.outbox.event IS
  'the subject on TASK_EXECUTION under which the payload is an event too; NULL: it is none';

-- A row that is deleted by somebody who knows nothing of its event, a relay of the release before or a client, leaves the event
-- as a row of its own, under the same id: by that the relay sees whether it was sent.
CREATE FUNCTION bridge.keep_event() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  INSERT INTO bridge.outbox (outbox_id, target, key, op, payload, created_at) OVERRIDING SYSTEM VALUE
  VALUES (OLD.outbox_id, 'TASK_EXECUTION', OLD.event, 'E', OLD.payload, OLD.created_at);
  RETURN NULL;
END $$;
CREATE TRIGGER keep_event AFTER DELETE ON bridge.outbox
  FOR EACH ROW WHEN (OLD.event IS NOT NULL AND current_setting('bridge.forgets_events', true) IS DISTINCT FROM 'on')
  EXECUTE FUNCTION bridge.keep_event();

-- Forget rows by id, whose value and event were both sent. Those that are gone already do not matter.
CREATE FUNCTION bridge.forget(p_ids bigint[]) RETURNS void LANGUAGE sql SET bridge.forgets_events = 'on' AS $$
  DELETE FROM bridge.outbox WHERE outbox_id = ANY(p_ids)
$$;

CREATE OR REPLACE FUNCTION bridge.capture_task_insert() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF bridge.is_echo() THEN
    RETURN NULL;
  END IF;
  INSERT INTO bridge.outbox (target, key, op, payload, event)
  SELECT 'TASK_STATE', n.task_id::text, 'U', bridge.task_payload(
           n.task_id, n.task_type, n.status, n.status_reason, n.priority, n.attempt, n.worker, n.retry_count, n.progress,
           n.started_at, n.completed_at),
         'tasks.created.' || n.task_id
  FROM new_rows n;
  RETURN NULL;
END $$;

-- The event of a task that nobody holds any more still names who did: it has another payload, so a row of its own. A full join
-- is never a nested loop over two transition tables: its plan may be kept.
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
