-- As in 0016, but what a task waits for is counted, not added up: its open edges, and a resource that is taken. Whoever
-- enqueues it with the number of tasks that it is to wait for (blocked_by) has it pending from the start, and where all of them
-- are open nothing is left to change: no second version of the row, no second value for JetStream. The count is right
-- beside releases under way: they have changed their edges before they lock the task, and take theirs off after it was counted.
CREATE OR REPLACE FUNCTION tasks.block_dependents() RETURNS trigger LANGUAGE plpgsql
SET enable_seqscan = off SET jit = off AS $$
DECLARE v_edges uuid[]; v_parents uuid[]; v_parent record; v_ids uuid[]; v_group record; v_id uuid;
BEGIN
  SELECT array_agg(n.dependency_id), array_agg(DISTINCT n.depends_on_task_id::uuid), array_agg(DISTINCT n.task_id::uuid)
  INTO v_edges, v_parents, v_ids FROM new_rows n;
  -- The parents first, in order: each either ends before (and does not block) or after (and then sees the row). What they
  -- are is what they are once locked; only those that have started decide anything.
  PERFORM tasks.hold_tasks(v_parents);
  FOR v_parent IN
    SELECT s.task_id, q.status, q.attempt
    FROM (SELECT i.task_id, i.task_type FROM tasks.identity i WHERE i.task_id = ANY(v_parents) ORDER BY i.task_id) s
    CROSS JOIN LATERAL (
      SELECT x.status, x.attempt, x.completed_at FROM tasks.queue x
      WHERE x.task_id = s.task_id AND x.task_type = s.task_type OFFSET 0) q
    WHERE q.completed_at IS NOT NULL OR q.attempt > 0
  LOOP
    IF v_parent.status IN ('failed', 'cancelled') AND EXISTS (
      SELECT FROM tasks.dependencies d
      WHERE d.depends_on_task_id = v_parent.task_id AND d.dependency_id = ANY(v_edges) AND d.released_at IS NULL
        AND NOT (d.dependency_type = 'resource' OR (d.dependency_type = 'start' AND v_parent.attempt > 0))
    ) THEN
      RAISE EXCEPTION 'task % is %, nothing can wait for it', v_parent.task_id, v_parent.status
        USING ERRCODE = 'check_violation', CONSTRAINT = 'dependency_can_complete', SCHEMA = 'tasks', TABLE = 'dependencies';
    END IF;
    UPDATE tasks.dependencies d SET released_at = clock_timestamp()
    WHERE d.depends_on_task_id = v_parent.task_id AND d.dependency_id = ANY(v_edges) AND d.released_at IS NULL
      AND (v_parent.status IN ('completed', 'failed', 'cancelled')
           OR (d.dependency_type = 'start' AND v_parent.attempt > 0));
  END LOOP;
  PERFORM tasks.lock_tasks(v_ids);
  FOR v_group IN
    SELECT i.task_type, s.open, array_agg(s.task_id) AS ids
    FROM (
      SELECT x.task_id,
             (SELECT count(*) FROM tasks.dependencies d WHERE d.task_id = x.task_id AND d.released_at IS NULL)::integer
             + EXISTS (SELECT FROM tasks.resource_waiters w WHERE w.task_id = x.task_id)::integer AS open
      FROM unnest(v_ids) AS x (task_id)) s
    CROSS JOIN LATERAL (SELECT y.task_type FROM tasks.identity y WHERE y.task_id = s.task_id OFFSET 0) i GROUP BY 1, 2
  LOOP
    SELECT q.task_id INTO v_id FROM tasks.queue q
    WHERE q.task_id = ANY(v_group.ids) AND q.task_type = v_group.task_type AND q.status NOT IN ('pending', 'queued')
      AND EXISTS (
        SELECT FROM tasks.dependencies d
        WHERE d.task_id = q.task_id AND d.dependency_id = ANY(v_edges) AND d.released_at IS NULL)
    LIMIT 1;
    IF FOUND THEN
      RAISE EXCEPTION 'task % is not waiting any more, it cannot be made to depend on another', v_id
        USING ERRCODE = 'check_violation', CONSTRAINT = 'dependent_is_waiting', SCHEMA = 'tasks', TABLE = 'dependencies';
    END IF;
    UPDATE tasks.queue q SET
      blocked_by = v_group.open,
      status = CASE WHEN v_group.open > 0 THEN 'pending'
        WHEN q.scheduled_at IS NULL OR q.scheduled_at <= now() THEN 'queued' ELSE q.status END,
      updated_at = now()
    WHERE q.task_id = ANY(v_group.ids) AND q.task_type = v_group.task_type AND q.status IN ('pending', 'queued')
      AND (q.blocked_by <> v_group.open OR (q.status = 'queued' AND v_group.open > 0));
  END LOOP;
  RETURN NULL;
END $$;
