-- As in 0020, and what ends releases those that wait for it by the statement that moves it, where all of them are of the same leaf
-- and few enough for arrays: the conditions of triggers and constraints are got ready once, JetStream's rows are one insert.
-- Whatever else waits is left to tasks.release_dependents, as with any other client. Old workers call it as before.
CREATE OR REPLACE FUNCTION tasks.make_turn(p_table regclass) RETURNS void LANGUAGE plpgsql AS $make$
BEGIN
  EXECUTE format($create$
CREATE OR REPLACE FUNCTION tasks.%1$I(
  p_task_type text, p_worker uuid,
  -- tasks that ended well, in the order of their executions, one array per column
  p_task_ids uuid[], p_attempts integer[], p_execution_ids uuid[], p_results jsonb[],
  p_cpu_time_ms bigint[], p_memory_peak_mb integer[], p_io_operations bigint[], p_logs text[],
  -- how many to claim, and how many where limits count what runs
  p_limit integer, p_limit_if_limited integer, p_lease_seconds double precision, p_grace_seconds double precision)
RETURNS TABLE (
  task_id uuid, next_types text[],  -- of an ended task: the types of those that wait for what ended, or for a resource of it
  attempt integer, retry_count integer, payload text, timeout_seconds double precision,  -- of a claimed one; NULL: ended
  execution_id uuid)                -- NULL: parked, one of its resources is taken
LANGUAGE plpgsql SET plan_cache_mode = %3$s SET enable_seqscan = off SET enable_bitmapscan = off SET enable_sort = off
SET jit = off AS $turn$
#variable_conflict use_column
DECLARE
  v_first uuid := p_execution_ids[1];
  v_last uuid := p_execution_ids[cardinality(p_execution_ids)];
  v_running public.task_status_type := 'running';  -- a variable: by its index of all that runs is not how to find one of them
  v_is_closed boolean := true; v_is_limited boolean := false;
  v_ended uuid[]; v_ids uuid[];
  v_edges uuid[]; v_waiting uuid[]; v_numbers integer[]; v_types text[];  -- of those that wait for what ended
BEGIN
  IF p_limit > 0 THEN
    -- A few tiny tables, once: a type that no limit names is claimed by the ready index alone.
    SELECT
      EXISTS (
        SELECT FROM tasks.pauses p WHERE p.task_type = p_task_type AND COALESCE(p.paused_until, 'infinity') > now())
      OR EXISTS (
        SELECT FROM tasks.queue_pauses p WHERE p.queue = y.queue AND COALESCE(p.paused_until, 'infinity') > now()),
      EXISTS (
        SELECT FROM tasks.limits l
        WHERE l.is_limiting AND ((l.scope = 'all') OR (l.scope = 'queue' AND l.name = y.queue)
                                 OR (l.scope = 'type' AND l.name = p_task_type)))
    INTO v_is_closed, v_is_limited
    FROM (SELECT COALESCE((SELECT t.queue FROM tasks.types t WHERE t.task_type = p_task_type), 'default') AS queue) y;
  END IF;

  -- Locked first, for a row that changes while it is settled is looked at anew, and then PostgreSQL 18 finds nothing in those
  -- partitions of tasks.executions that a kept plan was cut down to. Fenced: nothing happens to a task whose lease was taken
  -- over, or that was cancelled.
  IF cardinality(p_task_ids) > 0 THEN
    SELECT array_agg(e.task_id) INTO v_ended
    FROM (
      SELECT q.task_id FROM %2$s q
      WHERE q.task_id = ANY(p_task_ids) AND q.task_type = p_task_type AND q.worker = p_worker
        AND q.attempt = p_attempts[array_position(p_task_ids, q.task_id::uuid)] AND q.status = v_running
      ORDER BY q.task_id FOR NO KEY UPDATE) e;
  END IF;

  IF v_ended IS NOT NULL THEN
    -- Nobody adds to these edges any more: who does holds what ended.
    SELECT array_agg(d.dependency_id), array_agg(d.task_id::uuid), array_agg(DISTINCT i.task_type::text)
    INTO v_edges, v_waiting, v_types
    FROM tasks.dependencies d
    CROSS JOIN LATERAL (SELECT y.task_type FROM tasks.identity y WHERE y.task_id = d.task_id OFFSET 0) i
    WHERE d.depends_on_task_id = ANY(v_ended) AND d.released_at IS NULL;
    IF v_types = ARRAY[p_task_type] AND cardinality(v_edges) <= 200 THEN
      -- As tasks.release_dependents does, which finds none of these edges open; by the statement that moves the others.
      SELECT array_agg(x.task_id) FILTER (WHERE x.status = 'pending') INTO v_waiting
      FROM (
        SELECT q.task_id, q.status FROM %2$s q
        WHERE q.task_id = ANY(v_waiting) AND q.task_type = p_task_type ORDER BY q.task_id FOR NO KEY UPDATE) x;
      WITH released AS (
        UPDATE tasks.dependencies d SET released_at = clock_timestamp()
        WHERE d.dependency_id = ANY(v_edges) AND d.task_id = ANY(v_waiting) AND d.released_at IS NULL RETURNING d.task_id
      )
      SELECT array_agg(x.task_id), array_agg(x.number) INTO v_waiting, v_numbers
      FROM (SELECT r.task_id::uuid AS task_id, count(*)::integer AS number FROM released r GROUP BY 1) x;
    ELSE
      v_waiting := NULL;
    END IF;
  END IF;

  -- Last, for it waits for nobody; and by a statement of its own, which sees what others have claimed meanwhile: one that had
  -- waited would lock the rows that they run, until it commits.
  IF p_limit > 0 AND NOT v_is_closed AND NOT v_is_limited THEN
    SELECT array_agg(c.task_id) INTO v_ids
    FROM (
      SELECT r.task_id FROM %2$s r
      WHERE r.task_type = p_task_type AND r.status = 'queued'
        AND (r.assigned_agent_id IS NULL OR r.assigned_agent_id = p_worker)
        AND (r.expires_at IS NULL OR r.expires_at > now())
      ORDER BY r.priority DESC, r.created_at
      LIMIT p_limit FOR UPDATE SKIP LOCKED) c;
  END IF;

  LOOP
    -- They are locked: no look at their status, which would make the ready index a way to find them.
    RETURN QUERY
    WITH moved AS (
      UPDATE %2$s q SET
        status = CASE q.status WHEN v_running THEN 'completed' WHEN 'queued' THEN v_running ELSE CASE
          WHEN q.blocked_by <= v_numbers[array_position(v_waiting, q.task_id::uuid)]
            AND (q.scheduled_at IS NULL OR q.scheduled_at <= now()) THEN 'queued' ELSE q.status END END,
        blocked_by = CASE q.status WHEN 'pending'
          THEN greatest(q.blocked_by - v_numbers[array_position(v_waiting, q.task_id::uuid)], 0) ELSE q.blocked_by END,
        attempt = q.attempt + (q.status = 'queued')::integer,
        worker = CASE q.status WHEN 'pending' THEN q.worker ELSE p_worker END,
        started_at = CASE q.status WHEN 'queued' THEN greatest(clock_timestamp(), q.created_at) ELSE q.started_at END,
        completed_at = CASE q.status WHEN v_running THEN greatest(clock_timestamp(), q.started_at) END,
        lease_until = CASE q.status WHEN 'queued' THEN clock_timestamp() + least(
          make_interval(secs => p_lease_seconds), q.max_execution_time + make_interval(secs => p_grace_seconds)) END,
        status_reason = CASE q.status WHEN 'queued' THEN NULL ELSE q.status_reason END,
        progress = CASE q.status WHEN 'queued' THEN NULL ELSE q.progress END,
        updated_at = now()
      WHERE q.task_id = ANY(v_ended || v_ids || v_waiting) AND q.task_type = p_task_type
      RETURNING q.task_id, q.attempt, q.retry_count, q.max_execution_time, q.priority, q.created_at, q.status,
                CASE WHEN q.status <> 'completed' THEN q.payload::text END AS payload,
                CASE WHEN q.status = v_running THEN partitions.uuid7() END AS execution_id
    ), closed AS (
      UPDATE tasks.executions e SET
        status = 'completed',
        completed_at = greatest(clock_timestamp(), e.started_at),
        result = g.result,
        cpu_time_ms = g.cpu_time_ms, memory_peak_mb = g.memory_peak_mb, io_operations = g.io_operations,
        log_lines = g.log_lines
      FROM unnest(
        p_task_ids, p_execution_ids, p_results, p_cpu_time_ms, p_memory_peak_mb, p_io_operations, p_logs)
      AS g (task_id, execution_id, result, cpu_time_ms, memory_peak_mb, io_operations, log_lines)
      WHERE g.task_id = ANY(v_ended) AND e.execution_id = g.execution_id AND e.task_id = g.task_id
        AND e.execution_id BETWEEN v_first AND v_last  -- leaves out the other days
    ), opened AS (
      INSERT INTO tasks.executions (execution_id, task_id, agent_id, execution_attempt, started_at)
      SELECT m.execution_id, m.task_id, p_worker, m.attempt, clock_timestamp() FROM moved m WHERE m.execution_id IS NOT NULL
    )
    SELECT m.task_id::uuid,
      CASE WHEN m.status = 'completed' THEN v_types || ARRAY(
        SELECT w.task_type FROM tasks.resource_holders h JOIN tasks.resource_waiters w ON w.resource = h.resource
        WHERE h.task_id = ANY(v_ended)) END,
      CASE WHEN m.status <> 'completed' THEN m.attempt END, m.retry_count, m.payload,
      date_part('epoch', m.max_execution_time), m.execution_id
    FROM moved m WHERE v_waiting IS NULL OR m.task_id <> ALL(v_waiting) ORDER BY m.priority DESC, m.created_at, m.task_id;

    -- Where nothing was ready, what has just ended may have made something so; limits count without what has ended.
    EXIT WHEN v_ids IS NOT NULL OR v_is_closed OR NOT (v_is_limited OR v_ended IS NOT NULL);
    v_ended := NULL;
    v_waiting := NULL;
    IF v_is_limited THEN
      v_ids := ARRAY(SELECT tasks.pick_limited(p_task_type, p_worker, least(p_limit, p_limit_if_limited)));
    ELSE
      v_ids := ARRAY(
        SELECT r.task_id FROM %2$s r
        WHERE r.task_type = p_task_type AND r.status = 'queued'
          AND (r.assigned_agent_id IS NULL OR r.assigned_agent_id = p_worker)
          AND (r.expires_at IS NULL OR r.expires_at > now())
        ORDER BY r.priority DESC, r.created_at
        LIMIT p_limit FOR UPDATE SKIP LOCKED);
    END IF;
    EXIT WHEN cardinality(v_ids) = 0;
  END LOOP;
END $turn$ $create$,
    'turn_' || (SELECT c.relname FROM pg_class c WHERE c.oid = p_table), p_table,
    CASE WHEN p_table = 'tasks.queue'::regclass THEN 'force_custom_plan' ELSE 'force_generic_plan' END);
END $make$;

SELECT tasks.make_turn(relid) FROM pg_partition_tree('tasks.queue');

-- As in 0020; one look tells of all that moved, and it leaves out those that wait for the end of what has started only now.
CREATE OR REPLACE FUNCTION tasks.release_dependents() RETURNS trigger LANGUAGE plpgsql
SET enable_seqscan = off SET jit = off AS $$
DECLARE v_moved record;
BEGIN
  IF NOT EXISTS (
    SELECT FROM tasks.dependencies d
    WHERE d.depends_on_task_id = ANY(ARRAY(SELECT n.task_id::uuid FROM new_rows n WHERE n.completed_at IS NOT NULL))
      AND d.released_at IS NULL
    UNION ALL
    SELECT FROM tasks.dependencies d
    WHERE d.depends_on_task_id = ANY(ARRAY(SELECT n.task_id::uuid FROM new_rows n WHERE n.status = 'running'))
      AND d.released_at IS NULL AND d.dependency_type = 'start'
  ) THEN
    RETURN NULL;
  END IF;
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
