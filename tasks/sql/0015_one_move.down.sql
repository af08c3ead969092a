ALTER TABLE tasks.executions DROP CONSTRAINT started_at_matches_id;
ALTER TABLE tasks.executions ADD CONSTRAINT started_at_matches_id CHECK (
  abs(extract(epoch FROM started_at - partitions.uuid7_time(execution_id))) <= 300) NOT VALID;

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
  task_id uuid, next_types text[],  -- of an ended task: the types of those that wait for it, or for a resource that it held
  attempt integer, retry_count integer, payload text, timeout_seconds double precision,  -- of a claimed one; NULL: ended
  execution_id uuid)                -- NULL: parked, one of its resources is taken
LANGUAGE plpgsql SET plan_cache_mode = %3$s SET enable_seqscan = off SET enable_bitmapscan = off SET enable_sort = off
SET jit = off AS $turn$
#variable_conflict use_column
DECLARE
  v_first uuid := p_execution_ids[1];
  v_last uuid := p_execution_ids[cardinality(p_execution_ids)];
  v_running public.task_status_type := 'running';  -- a variable: by its index of all that runs is not how to find one of them
  v_is_closed boolean; v_is_limited boolean; v_ids uuid[];
BEGIN
  -- Fenced: nothing happens to a task whose lease was taken over, or that was cancelled.
  IF v_first IS NOT NULL THEN
    RETURN QUERY
    WITH given AS (
      SELECT * FROM unnest(
        p_task_ids, p_attempts, p_execution_ids, p_results, p_cpu_time_ms, p_memory_peak_mb, p_io_operations, p_logs)
      AS g (task_id, attempt, execution_id, result, cpu_time_ms, memory_peak_mb, io_operations, log_lines)
    ), done AS (
      UPDATE %2$s q SET
        status = 'completed',
        completed_at = greatest(clock_timestamp(), q.started_at),
        lease_until = NULL,
        updated_at = now()
      FROM given g
      WHERE q.task_id = g.task_id AND q.task_type = p_task_type
        AND q.worker = p_worker AND q.attempt = g.attempt AND q.status = v_running
      RETURNING q.resources, g.*
    ), closed AS (
      UPDATE tasks.executions e SET
        status = 'completed',
        completed_at = greatest(clock_timestamp(), e.started_at),
        result = d.result,
        cpu_time_ms = d.cpu_time_ms, memory_peak_mb = d.memory_peak_mb, io_operations = d.io_operations,
        log_lines = d.log_lines
      FROM done d
      WHERE e.execution_id = d.execution_id AND e.task_id = d.task_id
        AND e.execution_id BETWEEN v_first AND v_last  -- leaves out the other days
    )
    SELECT d.task_id::uuid, ARRAY(
        SELECT i.task_type::text FROM tasks.dependencies w JOIN tasks.identity i ON i.task_id = w.task_id
        WHERE w.depends_on_task_id = d.task_id
        UNION
        SELECT w.task_type FROM tasks.resource_waiters w WHERE w.resource = ANY(d.resources)),
      NULL::integer, NULL::integer, NULL::text, NULL::double precision, NULL::uuid
    FROM done d;
  END IF;
  IF p_limit = 0 THEN
    RETURN;
  END IF;

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
  IF v_is_closed THEN
    RETURN;
  ELSIF v_is_limited THEN
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
  IF cardinality(v_ids) = 0 THEN
    RETURN;
  END IF;

  -- They are locked: no look at their status, which would make the ready index a way to find them.
  RETURN QUERY
  WITH claimed AS (
    UPDATE %2$s q SET
      status = 'running',
      attempt = q.attempt + 1,
      worker = p_worker,
      started_at = greatest(clock_timestamp(), q.created_at),
      lease_until = clock_timestamp() + least(
        make_interval(secs => p_lease_seconds), q.max_execution_time + make_interval(secs => p_grace_seconds)),
      status_reason = NULL,
      progress = NULL,
      updated_at = now()
    WHERE q.task_id = ANY(v_ids) AND q.task_type = p_task_type
    RETURNING q.task_id, q.attempt, q.retry_count, q.payload, q.max_execution_time, q.priority, q.created_at, q.status
  ), opened AS (
    INSERT INTO tasks.executions (task_id, agent_id, execution_attempt, started_at)
    SELECT c.task_id, p_worker, c.attempt, clock_timestamp() FROM claimed c WHERE c.status = 'running'
    RETURNING execution_id, task_id
  )
  SELECT c.task_id::uuid, NULL::text[], c.attempt, c.retry_count, c.payload::text,
         extract(epoch FROM c.max_execution_time)::double precision, o.execution_id
  FROM claimed c LEFT JOIN opened o ON o.task_id = c.task_id
  ORDER BY c.priority DESC, c.created_at, c.task_id;
END $turn$ $create$,
    'turn_' || (SELECT c.relname FROM pg_class c WHERE c.oid = p_table), p_table,
    CASE WHEN p_table = 'tasks.queue'::regclass THEN 'force_custom_plan' ELSE 'force_generic_plan' END);
END $make$;

SELECT tasks.make_turn(relid) FROM pg_partition_tree('tasks.queue');
