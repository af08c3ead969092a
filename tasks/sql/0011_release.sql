-- Released and blocked in time that grows with the number of tasks, not with its square. Nothing is joined: where statistics are
-- old, a join of many rows becomes a loop in a loop. Rows are found by arrays of their keys, group by group; and plans are
-- right for tables that were empty when they were made: hence the settings.

-- Lock tasks in the order of their ids, whatever their types: two that do so never wait for each other.
CREATE FUNCTION tasks.lock_tasks(p_task_ids uuid[]) RETURNS void LANGUAGE plpgsql SET enable_seqscan = off SET jit = off AS $$
BEGIN
  PERFORM FROM (SELECT i.task_id, i.task_type FROM tasks.identity i WHERE i.task_id = ANY(p_task_ids) ORDER BY i.task_id) s
  CROSS JOIN LATERAL (
    SELECT FROM tasks.queue q WHERE q.task_id = s.task_id AND q.task_type = s.task_type FOR UPDATE) locked;
END $$;

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

CREATE OR REPLACE FUNCTION tasks.block_dependents() RETURNS trigger LANGUAGE plpgsql
SET enable_seqscan = off SET jit = off AS $$
DECLARE v_edges uuid[]; v_parents uuid[]; v_parent record; v_ids uuid[]; v_group record; v_number integer;
BEGIN
  SELECT array_agg(n.dependency_id), array_agg(DISTINCT n.depends_on_task_id::uuid), array_agg(DISTINCT n.task_id::uuid)
  INTO v_edges, v_parents, v_ids FROM new_rows n;
  -- The parents first, in order: each either ends before (and does not block) or after (and then sees the row). What they
  -- are is what they are once locked; only those that have started decide anything.
  FOR v_parent IN
    SELECT s.task_id, q.status, q.attempt
    FROM (SELECT i.task_id, i.task_type FROM tasks.identity i WHERE i.task_id = ANY(v_parents) ORDER BY i.task_id) s
    CROSS JOIN LATERAL (
      SELECT x.status, x.attempt, x.completed_at FROM tasks.queue x
      WHERE x.task_id = s.task_id AND x.task_type = s.task_type FOR SHARE) q
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

-- Cycles: new edges are looked at together. A cycle needs an edge from an older task to a newer one.
CREATE FUNCTION tasks.refuse_cycles() RETURNS trigger LANGUAGE plpgsql
SET enable_seqscan = off SET jit = off AS $$
DECLARE v_task_id uuid;
BEGIN
  IF EXISTS (SELECT FROM new_rows n WHERE n.depends_on_task_id >= n.task_id) THEN
    PERFORM pg_advisory_xact_lock(hashtext('tasks.dependencies'));
  ELSE
    PERFORM pg_advisory_xact_lock_shared(hashtext('tasks.dependencies'));
    PERFORM FROM tasks.dependencies d WHERE d.depends_on_task_id > d.task_id ORDER BY d.task_id LIMIT 1;
    IF NOT FOUND THEN
      RETURN NULL;
    END IF;
  END IF;
  FOR v_task_id IN SELECT DISTINCT n.task_id FROM new_rows n LOOP
    IF EXISTS (
      WITH RECURSIVE upstream(id) AS (
        SELECT d.depends_on_task_id::uuid FROM tasks.dependencies d WHERE d.task_id = v_task_id
        UNION
        SELECT d.depends_on_task_id::uuid FROM upstream u JOIN tasks.dependencies d ON d.task_id = u.id)
      SELECT FROM upstream WHERE id = v_task_id
    ) THEN
      RAISE EXCEPTION 'dependency cycle through task %', v_task_id
        USING ERRCODE = 'check_violation', CONSTRAINT = 'no_dependency_cycle';
    END IF;
  END LOOP;
  RETURN NULL;
END $$;
DROP TRIGGER no_cycle ON tasks.dependencies;
CREATE TRIGGER no_cycle AFTER UPDATE OF task_id, depends_on_task_id ON tasks.dependencies
  FOR EACH ROW EXECUTE FUNCTION tasks.refuse_cycle();
CREATE TRIGGER no_cycle_of_insert AFTER INSERT ON tasks.dependencies REFERENCING NEW TABLE AS new_rows
  FOR EACH STATEMENT EXECUTE FUNCTION tasks.refuse_cycles();

-- A released edge stays on its page: no index is written.
ALTER TABLE tasks.dependencies SET (fillfactor = 55);

-- The moves of a workflow, too, need no look into tasks.status_transitions.
DROP TRIGGER check_status ON tasks.queue;
CREATE TRIGGER check_status BEFORE UPDATE OF status ON tasks.queue
  FOR EACH ROW WHEN (
    OLD.status IS DISTINCT FROM NEW.status
    AND NOT (OLD.status = 'queued' AND NEW.status IN ('running', 'pending'))
    AND NOT (OLD.status = 'running' AND NEW.status = 'completed')
    AND NOT (OLD.status = 'pending' AND NEW.status = 'queued'))
  EXECUTE FUNCTION tasks.check_status_transition();
