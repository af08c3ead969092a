-- As in 0017, but what this very transaction has written is locked already: nobody else can change it before it commits, most
-- often nobody can even see it. A workflow that is enqueued as one locks nothing, and of its tasks, which knew from the start
-- how many they wait for, nothing is changed. Whether a row is ours tells its xmin: it is that of the edges. Transaction ids come
-- again after four billions; that a row was made when this transaction began does not.
CREATE OR REPLACE FUNCTION tasks.block_dependents() RETURNS trigger LANGUAGE plpgsql
SET enable_seqscan = off SET jit = off AS $$
DECLARE v_edges uuid[]; v_parents uuid[]; v_parent record; v_ids uuid[]; v_others uuid[]; v_group record; v_id uuid; v_ours xid;
BEGIN
  SELECT array_agg(n.dependency_id), array_agg(DISTINCT n.depends_on_task_id::uuid), array_agg(DISTINCT n.task_id::uuid)
  INTO v_edges, v_parents, v_ids FROM new_rows n;
  SELECT d.xmin INTO v_ours FROM tasks.dependencies d WHERE d.dependency_id = v_edges[1];
  -- Those that somebody else might change, or that have started.
  SELECT array_agg(x.task_id) INTO v_others
  FROM (SELECT unnest(v_parents) AS task_id UNION SELECT unnest(v_ids)) x
  CROSS JOIN LATERAL (SELECT y.task_type FROM tasks.identity y WHERE y.task_id = x.task_id OFFSET 0) i
  WHERE NOT EXISTS (
    SELECT FROM tasks.queue q
    WHERE q.task_id = x.task_id AND q.task_type = i.task_type
      AND q.xmin = v_ours AND q.created_at = now() AND q.status IN ('pending', 'queued') AND q.attempt = 0 OFFSET 0);
  IF v_others IS NOT NULL THEN
    PERFORM tasks.look_at_parents(ARRAY(SELECT unnest(v_parents) INTERSECT SELECT unnest(v_others)), v_edges);
    PERFORM tasks.lock_tasks(ARRAY(SELECT unnest(v_ids) INTERSECT SELECT unnest(v_others)));
  END IF;
  -- Those that wait for more or less than they know of.
  FOR v_group IN
    SELECT i.task_type, e.open, array_agg(x.task_id) AS ids
    FROM unnest(v_ids) AS x (task_id)
    CROSS JOIN LATERAL (SELECT y.task_type FROM tasks.identity y WHERE y.task_id = x.task_id OFFSET 0) i
    CROSS JOIN LATERAL (
      SELECT (SELECT count(*) FROM tasks.dependencies d WHERE d.task_id = x.task_id AND d.released_at IS NULL)::integer
             + EXISTS (SELECT FROM tasks.resource_waiters w WHERE w.task_id = x.task_id)::integer AS open OFFSET 0) e
    CROSS JOIN LATERAL (
      SELECT z.status, z.blocked_by FROM tasks.queue z
      WHERE z.task_id = x.task_id AND z.task_type = i.task_type OFFSET 0) q
    WHERE q.blocked_by <> e.open OR q.status <> 'pending'
    GROUP BY 1, 2
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

-- The tasks that others wait for by new edges, in order: each either ends before (and does not block) or after (and then sees
-- the edge). What they are is what they are once locked; only those that have started decide anything.
CREATE FUNCTION tasks.look_at_parents(p_parents uuid[], p_edges uuid[]) RETURNS void LANGUAGE plpgsql
SET enable_seqscan = off SET jit = off AS $$
DECLARE v_parent record;
BEGIN
  PERFORM tasks.hold_tasks(p_parents);
  FOR v_parent IN
    SELECT s.task_id, q.status, q.attempt
    FROM (SELECT i.task_id, i.task_type FROM tasks.identity i WHERE i.task_id = ANY(p_parents) ORDER BY i.task_id) s
    CROSS JOIN LATERAL (
      SELECT x.status, x.attempt, x.completed_at FROM tasks.queue x
      WHERE x.task_id = s.task_id AND x.task_type = s.task_type OFFSET 0) q
    WHERE q.completed_at IS NOT NULL OR q.attempt > 0
  LOOP
    IF v_parent.status IN ('failed', 'cancelled') AND EXISTS (
      SELECT FROM tasks.dependencies d
      WHERE d.depends_on_task_id = v_parent.task_id AND d.dependency_id = ANY(p_edges) AND d.released_at IS NULL
        AND NOT (d.dependency_type = 'resource' OR (d.dependency_type = 'start' AND v_parent.attempt > 0))
    ) THEN
      RAISE EXCEPTION 'task % is %, nothing can wait for it', v_parent.task_id, v_parent.status
        USING ERRCODE = 'check_violation', CONSTRAINT = 'dependency_can_complete', SCHEMA = 'tasks', TABLE = 'dependencies';
    END IF;
    UPDATE tasks.dependencies d SET released_at = clock_timestamp()
    WHERE d.depends_on_task_id = v_parent.task_id AND d.dependency_id = ANY(p_edges) AND d.released_at IS NULL
      AND (v_parent.status IN ('completed', 'failed', 'cancelled')
           OR (d.dependency_type = 'start' AND v_parent.attempt > 0));
  END LOOP;
END $$;

-- Of each leaf a function that takes released edges off its tasks, for the reasons of tasks.make_turn: its statement names one
-- table, and the session keeps its plan. It finds the rows by their key, in the order of their ids: two that release never wait
-- for each other. For callers that have set how it is to be planned (tasks.release_dependents).
CREATE FUNCTION tasks.make_release(p_table regclass) RETURNS void LANGUAGE plpgsql AS $make$
BEGIN
  EXECUTE format($create$
CREATE OR REPLACE FUNCTION tasks.%1$I(p_task_type text, p_ids uuid[], p_numbers integer[], p_is_same boolean, p_broken uuid[])
RETURNS void LANGUAGE plpgsql SET plan_cache_mode = %3$s SET enable_seqscan = off SET enable_bitmapscan = off AS $count$
BEGIN
  UPDATE %2$s q SET
    blocked_by = greatest(q.blocked_by - p_numbers[
      CASE WHEN p_is_same THEN 1 ELSE array_position(p_ids, q.task_id::uuid) END], 0),
    status = CASE WHEN q.status = 'pending' AND q.blocked_by <= p_numbers[
        CASE WHEN p_is_same THEN 1 ELSE array_position(p_ids, q.task_id::uuid) END]
      AND (q.scheduled_at IS NULL OR q.scheduled_at <= now()) AND (p_broken IS NULL OR q.task_id <> ALL(p_broken))
      THEN 'queued' ELSE q.status END,
    updated_at = now()
  WHERE q.task_id = ANY(p_ids) AND q.task_type = p_task_type;
END $count$ $create$,
    'ready_' || (SELECT c.relname FROM pg_class c WHERE c.oid = p_table), p_table,
    CASE WHEN p_table = 'tasks.queue'::regclass THEN 'force_custom_plan' ELSE 'force_generic_plan' END);
END $make$;
SELECT tasks.make_release(relid) FROM pg_partition_tree('tasks.queue');

-- As in 0010_turns, and the leaf gets that function too.
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
  PERFORM tasks.make_release(format('tasks.%I', v_name)::regclass);
  RETURN 'tasks.' || quote_ident(v_name);
END $$;

CREATE OR REPLACE FUNCTION tasks.count_down(p_task_ids uuid[], p_broken uuid[]) RETURNS void
LANGUAGE plpgsql SET enable_seqscan = off SET jit = off AS $$
DECLARE v_group record; v_is_locked boolean := false;
BEGIN
  FOR v_group IN
    SELECT i.task_type, array_agg(s.task_id) AS ids, array_agg(s.number) AS numbers, min(s.number) = max(s.number) AS is_same,
           count(*) OVER () AS groups
    FROM (SELECT x.task_id, count(*)::integer AS number FROM unnest(p_task_ids) AS x (task_id) GROUP BY 1) s
    CROSS JOIN LATERAL (SELECT y.task_type FROM tasks.identity y WHERE y.task_id = s.task_id OFFSET 0) i
    GROUP BY 1, CASE WHEN cardinality(p_task_ids) > 100 THEN s.number END
  LOOP
    IF v_group.groups > 1 AND NOT v_is_locked THEN
      PERFORM tasks.lock_tasks(p_task_ids);
      v_is_locked := true;
    END IF;
    EXECUTE format('SELECT %s($1, $2, $3, $4, $5)', COALESCE(
      (SELECT to_regproc(replace(t.partition_name, 'tasks.', 'tasks.ready_')) FROM tasks.types t
       WHERE t.task_type = v_group.task_type), 'tasks.ready_queue'))
    USING v_group.task_type, v_group.ids, v_group.numbers, v_group.is_same, p_broken;
  END LOOP;
END $$;

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
    PERFORM tasks.count_down(v_waited, v_broken);
    EXIT WHEN v_broken IS NULL;
    v_parents := v_ids;
    v_how := v_status;
    v_ids := tasks.waiting_of(v_broken);
    v_status := 'cancelled';
    EXIT WHEN v_ids IS NULL;
  END LOOP;
END $$;
