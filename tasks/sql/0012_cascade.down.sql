CREATE OR REPLACE FUNCTION tasks.release_dependents() RETURNS trigger LANGUAGE plpgsql
SET enable_seqscan = off SET jit = off AS $$
DECLARE v_moved record; v_ids uuid[]; v_broken uuid[]; v_group record;
BEGIN
  FOR v_moved IN
    SELECT n.status, array_agg(n.task_id) AS ids FROM new_rows n
    WHERE n.completed_at IS NOT NULL OR n.status = 'running' GROUP BY n.status
  LOOP
    WITH released AS (
      UPDATE tasks.dependencies d SET released_at = clock_timestamp()
      WHERE d.depends_on_task_id = ANY(v_moved.ids) AND d.released_at IS NULL
        AND (v_moved.status <> 'running' OR d.dependency_type = 'start')
      RETURNING d.task_id, d.dependency_type
    )
    SELECT array_agg(r.task_id),
           array_agg(r.task_id) FILTER (WHERE v_moved.status IN ('failed', 'cancelled') AND r.dependency_type <> 'resource')
    INTO v_ids, v_broken FROM released r;
    CONTINUE WHEN v_ids IS NULL;
    PERFORM tasks.lock_tasks(v_ids);
    FOR v_group IN  -- of one type, and with as many edges released: often all of them
      SELECT i.task_type, s.number, array_agg(s.task_id) AS ids
      FROM (SELECT x.task_id, count(*)::integer AS number FROM unnest(v_ids) AS x (task_id) GROUP BY 1) s
      CROSS JOIN LATERAL (SELECT y.task_type FROM tasks.identity y WHERE y.task_id = s.task_id OFFSET 0) i GROUP BY 1, 2
    LOOP
      UPDATE tasks.queue q SET
        blocked_by = greatest(q.blocked_by - v_group.number, 0),
        status = CASE WHEN q.status = 'pending' AND q.blocked_by <= v_group.number
          AND (q.scheduled_at IS NULL OR q.scheduled_at <= now()) AND (v_broken IS NULL OR q.task_id <> ALL(v_broken))
          THEN 'queued' ELSE q.status END,
        updated_at = now()
      WHERE q.task_id = ANY(v_group.ids) AND q.task_type = v_group.task_type;
    END LOOP;
    IF v_broken IS NOT NULL THEN
      PERFORM tasks.cancel_dependents(v_broken, v_moved.ids, v_moved.status);
    END IF;
  END LOOP;
  RETURN NULL;
END $$;

-- What waited in vain, each with the reason: the first of the tasks that it waited for.
CREATE FUNCTION tasks.cancel_dependents(p_task_ids uuid[], p_parents uuid[], p_how task_status_type) RETURNS void
LANGUAGE plpgsql SET enable_seqscan = off SET jit = off AS $$
DECLARE v_group record;
BEGIN
  FOR v_group IN
    SELECT s.broken, i.task_type, array_agg(s.task_id) AS ids
    FROM (
      SELECT d.task_id, min(d.depends_on_task_id::text) AS broken FROM tasks.dependencies d
      WHERE d.depends_on_task_id = ANY(p_parents) AND d.dependency_type <> 'resource' GROUP BY 1) s
    CROSS JOIN LATERAL (SELECT y.task_type FROM tasks.identity y WHERE y.task_id = s.task_id OFFSET 0) i
    WHERE s.task_id = ANY(p_task_ids) GROUP BY 1, 2
  LOOP
    UPDATE tasks.queue q SET
      status = 'cancelled',
      status_reason = format('task %s that it waits for %s', v_group.broken, p_how),
      completed_at = greatest(clock_timestamp(), q.created_at),
      updated_at = now()
    WHERE q.task_id = ANY(v_group.ids) AND q.task_type = v_group.task_type AND q.status = 'pending';
  END LOOP;
END $$;

DROP FUNCTION tasks.release_generation(uuid[], task_status_type);
DROP FUNCTION tasks.cancel_in_vain(uuid[], uuid[], task_status_type);
