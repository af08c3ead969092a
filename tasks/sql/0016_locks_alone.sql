-- Rows of tasks.queue are locked by statements that join nothing. In PostgreSQL 18 a statement that locks rows and prunes
-- partitions while it runs loses rows, or ends its session, once a row was being changed by another (docs/decisions/0024). Here
-- the type is a parameter: the leaf is known before the statement runs.

-- Lock tasks in the order of their ids, whatever their types: two that do so never wait for each other. As few statements as
-- that order allows: one for each run of tasks of one type.
CREATE OR REPLACE FUNCTION tasks.lock_tasks(p_task_ids uuid[]) RETURNS void LANGUAGE plpgsql SET enable_seqscan = off SET jit = off AS $$
DECLARE v_run record;
BEGIN
  FOR v_run IN SELECT * FROM tasks.runs_of(p_task_ids) LOOP
    PERFORM FROM tasks.queue q
    WHERE q.task_id = ANY(v_run.ids) AND q.task_type = v_run.task_type ORDER BY q.task_id FOR UPDATE;
  END LOOP;
END $$;

-- As lock_tasks, against changes only.
CREATE FUNCTION tasks.hold_tasks(p_task_ids uuid[]) RETURNS void LANGUAGE plpgsql SET enable_seqscan = off SET jit = off AS $$
DECLARE v_run record;
BEGIN
  FOR v_run IN SELECT * FROM tasks.runs_of(p_task_ids) LOOP
    PERFORM FROM tasks.queue q
    WHERE q.task_id = ANY(v_run.ids) AND q.task_type = v_run.task_type ORDER BY q.task_id FOR SHARE;
  END LOOP;
END $$;

-- The tasks in the order of their ids, neighbours of one type together.
CREATE FUNCTION tasks.runs_of(p_task_ids uuid[]) RETURNS TABLE (task_type text, ids uuid[])
LANGUAGE sql STABLE SET enable_seqscan = off SET jit = off AS $$
  SELECT x.task_type, array_agg(x.task_id::uuid ORDER BY x.place)
  FROM (
    SELECT i.task_id, i.task_type::text AS task_type, row_number() OVER (ORDER BY i.task_id) AS place,
           row_number() OVER (ORDER BY i.task_id) - row_number() OVER (PARTITION BY i.task_type ORDER BY i.task_id) AS run
    FROM tasks.identity i WHERE i.task_id = ANY(p_task_ids)) x
  GROUP BY x.task_type, x.run ORDER BY min(x.place)
$$;

CREATE OR REPLACE FUNCTION tasks.block_dependents() RETURNS trigger LANGUAGE plpgsql
SET enable_seqscan = off SET jit = off AS $$
DECLARE v_edges uuid[]; v_parents uuid[]; v_parent record; v_ids uuid[]; v_group record; v_number integer;
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
    SELECT i.task_type, s.open, array_agg(s.task_id::uuid) AS ids
    FROM (
      SELECT d.task_id, count(*)::integer AS open FROM tasks.dependencies d
      WHERE d.dependency_id = ANY(v_edges) AND d.released_at IS NULL GROUP BY 1) s
    CROSS JOIN LATERAL (SELECT y.task_type FROM tasks.identity y WHERE y.task_id = s.task_id OFFSET 0) i GROUP BY 1, 2
  LOOP
    UPDATE tasks.queue q SET
      blocked_by = q.blocked_by + v_group.open,
      status = CASE WHEN q.status = 'queued' THEN 'pending' ELSE q.status END,
      updated_at = now()
    WHERE q.task_id = ANY(v_group.ids) AND q.task_type = v_group.task_type AND q.status IN ('pending', 'queued');
    GET DIAGNOSTICS v_number = ROW_COUNT;
    IF v_number < cardinality(v_group.ids) THEN
      RAISE EXCEPTION 'task % is not waiting any more, it cannot be made to depend on another', (
          SELECT q.task_id FROM tasks.queue q
          WHERE q.task_id = ANY(v_group.ids) AND q.task_type = v_group.task_type AND q.status NOT IN ('pending', 'queued') LIMIT 1)
        USING ERRCODE = 'check_violation', CONSTRAINT = 'dependent_is_waiting', SCHEMA = 'tasks', TABLE = 'dependencies';
    END IF;
  END LOOP;
  RETURN NULL;
END $$;
