-- What waits in vain is cancelled generation by generation, without a switch that a client could set. Of each generation the
-- edges are released before its tasks are cancelled: the triggers which that cancelling fires find nothing left to do, so
-- they end at once, however long the chain. A task that is set aside (paused) waits too.
CREATE OR REPLACE FUNCTION tasks.release_dependents() RETURNS trigger LANGUAGE plpgsql
SET enable_seqscan = off SET jit = off AS $$
DECLARE v_moved record;
BEGIN
  FOR v_moved IN
    SELECT n.status, array_agg(n.task_id::uuid) AS ids FROM new_rows n
    WHERE n.completed_at IS NOT NULL OR n.status = 'running' GROUP BY n.status
  LOOP
    IF EXISTS (
      SELECT FROM tasks.dependencies d
      WHERE d.depends_on_task_id = ANY(v_moved.ids) AND d.released_at IS NULL
        AND (v_moved.status <> 'running' OR d.dependency_type = 'start')
    ) THEN
      PERFORM tasks.release_generations(v_moved.ids, v_moved.status);
    END IF;
  END LOOP;
  RETURN NULL;
END $$;

-- Release what waits for tasks that are p_status by now; cancel what waited in vain, and what waits for that.
CREATE FUNCTION tasks.release_generations(p_task_ids uuid[], p_status task_status_type) RETURNS void
LANGUAGE plpgsql SET enable_seqscan = off SET jit = off AS $$
DECLARE
  v_ids uuid[] := p_task_ids; v_status public.task_status_type := p_status;
  v_waited uuid[]; v_broken uuid[]; v_parents uuid[]; v_how public.task_status_type;
BEGIN
  LOOP
    WITH released AS (
      UPDATE tasks.dependencies d SET released_at = clock_timestamp()
      WHERE d.depends_on_task_id = ANY(v_ids) AND d.released_at IS NULL
        AND (v_status <> 'running' OR d.dependency_type = 'start')
      RETURNING d.task_id, d.dependency_type
    )
    SELECT array_agg(r.task_id::uuid),
           array_agg(r.task_id::uuid) FILTER (WHERE v_status IN ('failed', 'cancelled') AND r.dependency_type <> 'resource')
    INTO v_waited, v_broken FROM released r;
    IF v_parents IS NOT NULL THEN  -- v_ids waited in vain for them, and nobody waits for v_ids any more
      PERFORM tasks.cancel_waiting(v_ids, v_parents, v_how);
    END IF;
    EXIT WHEN v_waited IS NULL;
    PERFORM tasks.lock_tasks(v_waited);
    PERFORM tasks.count_down(v_waited, v_broken);
    EXIT WHEN v_broken IS NULL;
    v_parents := v_ids;
    v_how := v_status;
    v_ids := tasks.waiting_of(v_broken);
    v_status := 'cancelled';
    EXIT WHEN v_ids IS NULL;
  END LOOP;
END $$;

-- An id for each edge that was released: they wait for that many less, and those that wait for nothing are ready, unless
-- they are in p_broken.
CREATE FUNCTION tasks.count_down(p_task_ids uuid[], p_broken uuid[]) RETURNS void
LANGUAGE plpgsql SET enable_seqscan = off SET jit = off AS $$
DECLARE v_group record;
BEGIN
  FOR v_group IN  -- of one type, and with as many edges released: often all of them
    SELECT i.task_type, s.number, array_agg(s.task_id) AS ids
    FROM (SELECT x.task_id, count(*)::integer AS number FROM unnest(p_task_ids) AS x (task_id) GROUP BY 1) s
    CROSS JOIN LATERAL (SELECT y.task_type FROM tasks.identity y WHERE y.task_id = s.task_id OFFSET 0) i GROUP BY 1, 2
  LOOP
    UPDATE tasks.queue q SET
      blocked_by = greatest(q.blocked_by - v_group.number, 0),
      status = CASE WHEN q.status = 'pending' AND q.blocked_by <= v_group.number
        AND (q.scheduled_at IS NULL OR q.scheduled_at <= now()) AND (p_broken IS NULL OR q.task_id <> ALL(p_broken))
        THEN 'queued' ELSE q.status END,
      updated_at = now()
    WHERE q.task_id = ANY(v_group.ids) AND q.task_type = v_group.task_type;
  END LOOP;
END $$;

-- Those of the tasks, which are locked, that have not started; NULL: none. A running one is never taken from its worker
-- by a dependency: its edges were released before it started.
CREATE FUNCTION tasks.waiting_of(p_task_ids uuid[]) RETURNS uuid[]
LANGUAGE sql SET enable_seqscan = off SET jit = off AS $$
  SELECT array_agg(s.task_id) FROM (SELECT DISTINCT unnest(p_task_ids) AS task_id) s
  CROSS JOIN LATERAL (SELECT y.task_type FROM tasks.identity y WHERE y.task_id = s.task_id OFFSET 0) i
  CROSS JOIN LATERAL (
    SELECT q.status FROM tasks.queue q WHERE q.task_id = s.task_id AND q.task_type = i.task_type OFFSET 0) q
  WHERE q.status = 'pending' OR q.status = 'paused'
$$;

-- Each with the reason: the first of the tasks that it waited for.
CREATE FUNCTION tasks.cancel_waiting(p_task_ids uuid[], p_parents uuid[], p_how task_status_type) RETURNS void
LANGUAGE plpgsql SET enable_seqscan = off SET jit = off AS $$
DECLARE v_group record;
BEGIN
  FOR v_group IN
    SELECT s.broken, i.task_type, array_agg(s.task_id::uuid) AS ids
    FROM (
      SELECT d.task_id, min(d.depends_on_task_id::text) AS broken FROM tasks.dependencies d
      WHERE d.depends_on_task_id = ANY(p_parents) AND d.dependency_type <> 'resource' GROUP BY 1) s
    CROSS JOIN LATERAL (SELECT y.task_type FROM tasks.identity y WHERE y.task_id = s.task_id OFFSET 0) i
    WHERE s.task_id = ANY(p_task_ids) GROUP BY 1, 2
  LOOP
    UPDATE tasks.queue q SET
      status = 'cancelled',
      status_reason = format('task %s that it waits for %s', v_group.broken, p_how),
      completed_at = greatest(clock_timestamp(), q.created_at, q.started_at),
      updated_at = now()
    WHERE q.task_id = ANY(v_group.ids) AND q.task_type = v_group.task_type AND q.status IN ('pending', 'paused');
  END LOOP;
END $$;

DROP FUNCTION tasks.release_generation(uuid[], task_status_type);
DROP FUNCTION tasks.cancel_in_vain(uuid[], uuid[], task_status_type);
