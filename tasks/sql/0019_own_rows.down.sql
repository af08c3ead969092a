CREATE OR REPLACE FUNCTION tasks.release_generations(p_task_ids uuid[], p_status task_status_type) RETURNS void
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
CREATE OR REPLACE FUNCTION tasks.count_down(p_task_ids uuid[], p_broken uuid[]) RETURNS void
LANGUAGE plpgsql SET enable_seqscan = off SET jit = off AS $$
DECLARE v_group record;
BEGIN
  FOR v_group IN
    SELECT i.task_type, array_agg(s.task_id) AS ids, array_agg(s.number) AS numbers, min(s.number) = max(s.number) AS is_same
    FROM (SELECT x.task_id, count(*)::integer AS number FROM unnest(p_task_ids) AS x (task_id) GROUP BY 1) s
    CROSS JOIN LATERAL (SELECT y.task_type FROM tasks.identity y WHERE y.task_id = s.task_id OFFSET 0) i
    GROUP BY 1, CASE WHEN cardinality(p_task_ids) > 100 THEN s.number END
  LOOP
    UPDATE tasks.queue q SET
      blocked_by = greatest(q.blocked_by - v_group.numbers[
        CASE WHEN v_group.is_same THEN 1 ELSE array_position(v_group.ids, q.task_id::uuid) END], 0),
      status = CASE WHEN q.status = 'pending' AND q.blocked_by <= v_group.numbers[
          CASE WHEN v_group.is_same THEN 1 ELSE array_position(v_group.ids, q.task_id::uuid) END]
        AND (q.scheduled_at IS NULL OR q.scheduled_at <= now()) AND (p_broken IS NULL OR q.task_id <> ALL(p_broken))
        THEN 'queued' ELSE q.status END,
      updated_at = now()
    WHERE q.task_id = ANY(v_group.ids) AND q.task_type = v_group.task_type;
  END LOOP;
END $$;
CREATE OR REPLACE FUNCTION partitions.create_task_type_partition(p_task_type text, p_lock_timeout text DEFAULT '2s')
RETURNS text LANGUAGE plpgsql AS $$
DECLARE
  v_name text := 'queue_' || left(regexp_replace(lower(p_task_type), '[^a-z0-9]+', '_', 'g'), 40)
                 || '_' || left(md5(p_task_type), 8);
  v_existing text;
BEGIN
  PERFORM set_config('lock_timeout', p_lock_timeout, true);
  PERFORM pg_advisory_xact_lock(hashtext('partitions'), 'tasks.queue'::regclass::oid::int);
  SELECT 'tasks.' || quote_ident(c.relname) INTO v_existing
  FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
  WHERE i.inhparent = 'tasks.queue'::regclass
    AND pg_get_expr(c.relpartbound, c.oid) = format('FOR VALUES IN (%L)', p_task_type);
  IF FOUND THEN
    RETURN v_existing;
  END IF;
  EXECUTE format(
    'CREATE TABLE tasks.%I (LIKE tasks.queue INCLUDING ALL, '
    'CONSTRAINT part_bound CHECK (task_type IS NOT NULL AND task_type = %L)) WITH (fillfactor = 85, '
    'autovacuum_vacuum_scale_factor = 0.01, autovacuum_vacuum_threshold = 1000, autovacuum_vacuum_cost_delay = 0)',
    v_name, p_task_type);
  LOCK TABLE ONLY tasks.queue IN ACCESS EXCLUSIVE MODE;
  PERFORM partitions.move_from_default('tasks.queue_default', format('tasks.%I', v_name), format('task_type = %L', p_task_type));
  EXECUTE format('ALTER TABLE tasks.queue ATTACH PARTITION tasks.%I FOR VALUES IN (%L)', v_name, p_task_type);
  EXECUTE format('ALTER TABLE tasks.%I DROP CONSTRAINT part_bound', v_name);
  PERFORM partitions.copy_statement_triggers('tasks.queue', format('tasks.%I', v_name)::regclass);
  PERFORM tasks.make_turn(format('tasks.%I', v_name)::regclass);
  RETURN 'tasks.' || quote_ident(v_name);
END $$;
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
DROP FUNCTION tasks.look_at_parents(uuid[], uuid[]);
DROP FUNCTION tasks.make_release(regclass);
DO $do$
DECLARE v_function regprocedure;
BEGIN
  FOR v_function IN
    SELECT p.oid FROM pg_proc p JOIN pg_partition_tree('tasks.queue') l ON true JOIN pg_class c ON c.oid = l.relid
    WHERE p.pronamespace = 'tasks'::regnamespace AND p.proname = 'ready_' || c.relname
  LOOP
    EXECUTE format('DROP FUNCTION %s', v_function);
  END LOOP;
END $do$;
