-- What waits in vain is cancelled generation by generation, in a loop: as triggers within triggers, a chain of some hundred tasks
-- went beyond the stack. While one trigger sees to all of it, those that its own updates fire do nothing.
CREATE OR REPLACE FUNCTION tasks.release_dependents() RETURNS trigger LANGUAGE plpgsql
SET enable_seqscan = off SET jit = off AS $$
DECLARE v_moved record; v_ids uuid[]; v_status public.task_status_type;
BEGIN
  IF COALESCE(current_setting('tasks.is_cascading', true), '') = 'on' THEN
    RETURN NULL;
  END IF;
  FOR v_moved IN
    SELECT n.status, array_agg(n.task_id::uuid) AS ids FROM new_rows n
    WHERE n.completed_at IS NOT NULL OR n.status = 'running' GROUP BY n.status
  LOOP
    v_ids := v_moved.ids;
    v_status := v_moved.status;
    WHILE EXISTS (
      SELECT FROM tasks.dependencies d
      WHERE d.depends_on_task_id = ANY(v_ids) AND d.released_at IS NULL
        AND (v_status <> 'running' OR d.dependency_type = 'start')
    ) LOOP
      PERFORM set_config('tasks.is_cascading', 'on', true);
      v_ids := tasks.release_generation(v_ids, v_status);
      v_status := 'cancelled';
      PERFORM set_config('tasks.is_cascading', 'off', true);
    END LOOP;
  END LOOP;
  RETURN NULL;
END $$;

-- Release what waits for tasks that are p_status by now; return what was cancelled, having waited in vain.
CREATE FUNCTION tasks.release_generation(p_task_ids uuid[], p_status task_status_type) RETURNS uuid[]
LANGUAGE plpgsql SET enable_seqscan = off SET jit = off AS $$
DECLARE v_ids uuid[]; v_broken uuid[]; v_group record;
BEGIN
  WITH released AS (
    UPDATE tasks.dependencies d SET released_at = clock_timestamp()
    WHERE d.depends_on_task_id = ANY(p_task_ids) AND d.released_at IS NULL
      AND (p_status <> 'running' OR d.dependency_type = 'start')
    RETURNING d.task_id, d.dependency_type
  )
  SELECT array_agg(r.task_id::uuid),
         array_agg(r.task_id::uuid) FILTER (WHERE p_status IN ('failed', 'cancelled') AND r.dependency_type <> 'resource')
  INTO v_ids, v_broken FROM released r;
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
  RETURN CASE WHEN v_broken IS NOT NULL THEN tasks.cancel_in_vain(v_broken, p_task_ids, p_status) END;
END $$;

CREATE FUNCTION tasks.cancel_in_vain(p_task_ids uuid[], p_parents uuid[], p_how task_status_type) RETURNS uuid[]
LANGUAGE plpgsql SET enable_seqscan = off SET jit = off AS $$
DECLARE v_group record; v_ids uuid[]; v_cancelled uuid[] := '{}';
BEGIN
  FOR v_group IN
    SELECT s.broken, i.task_type, array_agg(s.task_id::uuid) AS ids
    FROM (
      SELECT d.task_id, min(d.depends_on_task_id::text) AS broken FROM tasks.dependencies d
      WHERE d.depends_on_task_id = ANY(p_parents) AND d.dependency_type <> 'resource' GROUP BY 1) s
    CROSS JOIN LATERAL (SELECT y.task_type FROM tasks.identity y WHERE y.task_id = s.task_id OFFSET 0) i
    WHERE s.task_id = ANY(p_task_ids) GROUP BY 1, 2
  LOOP
    WITH cancelled AS (
      UPDATE tasks.queue q SET
        status = 'cancelled',
        status_reason = format('task %s that it waits for %s', v_group.broken, p_how),
        completed_at = greatest(clock_timestamp(), q.created_at),
        updated_at = now()
      WHERE q.task_id = ANY(v_group.ids) AND q.task_type = v_group.task_type AND q.status = 'pending'
      RETURNING q.task_id
    )
    SELECT array_agg(c.task_id::uuid) INTO v_ids FROM cancelled c;
    v_cancelled := v_cancelled || COALESCE(v_ids, '{}');
  END LOOP;
  RETURN v_cancelled;
END $$;

DROP FUNCTION tasks.release_generations(uuid[], task_status_type);
DROP FUNCTION tasks.count_down(uuid[], uuid[]);
DROP FUNCTION tasks.waiting_of(uuid[]);
DROP FUNCTION tasks.cancel_waiting(uuid[], uuid[], task_status_type);
