-- What bounds and shares the work: limits, rates, weights, pauses. The claim looks at these small tables once; a type that
-- none of them names is claimed as if they did not exist.
ALTER TABLE tasks.types
  ADD COLUMN queue varchar(100) NOT NULL DEFAULT 'default',
  ADD CONSTRAINT valid_queue CHECK (length(queue) > 0);
COMMENT ON COLUMN tasks.types.queue IS 'types of one queue share workers, and can be paused and limited together';

ALTER TABLE tasks.pauses
  ADD COLUMN paused_until timestamptz,
  ADD CONSTRAINT valid_pause CHECK (paused_until > paused_at);
COMMENT ON COLUMN tasks.pauses.paused_until IS 'NULL: until somebody resumes it';

CREATE TABLE tasks.queue_pauses (
  queue varchar(100) PRIMARY KEY,
  reason text NOT NULL DEFAULT '',
  paused_by varchar(150) NOT NULL DEFAULT '',
  paused_at timestamptz NOT NULL DEFAULT now(),
  paused_until timestamptz,
  CONSTRAINT valid_queue CHECK (length(queue) > 0),
  CONSTRAINT valid_pause CHECK (paused_until > paused_at)
);

CREATE TABLE tasks.limits (
  limit_id uuid PRIMARY KEY DEFAULT partitions.uuid7(),
  scope varchar(10) NOT NULL,
  name varchar(255) NOT NULL DEFAULT '',
  max_running integer,
  max_running_per_key integer,
  rate_limit integer,
  rate_seconds double precision,
  fair_keys boolean NOT NULL DEFAULT false,
  weight double precision NOT NULL DEFAULT 1,
  declared_by varchar(150) NOT NULL DEFAULT 'handler',
  updated_at timestamptz NOT NULL DEFAULT now(),
  is_limiting boolean NOT NULL GENERATED ALWAYS AS (
    scope <> 'key' AND (
      max_running IS NOT NULL OR max_running_per_key IS NOT NULL OR rate_limit IS NOT NULL OR fair_keys)) STORED,
  CONSTRAINT one_limit UNIQUE (scope, name),
  CONSTRAINT valid_scope CHECK (scope IN ('all', 'queue', 'type', 'key')),
  CONSTRAINT valid_name CHECK ((scope = 'all') = (name = '')),
  CONSTRAINT valid_max_running CHECK (max_running > 0 AND max_running_per_key > 0),
  CONSTRAINT valid_rate CHECK (
    (rate_limit IS NULL) = (rate_seconds IS NULL) AND rate_limit > 0 AND rate_seconds > 0),
  CONSTRAINT valid_weight CHECK (weight > 0),
  CONSTRAINT keys_are_of_types CHECK (scope = 'type' OR (max_running_per_key IS NULL AND NOT fair_keys)),
  CONSTRAINT keys_have_no_rate CHECK (scope <> 'key' OR rate_limit IS NULL)
);
COMMENT ON COLUMN tasks.limits.scope IS
  'all: every task; queue, type: those of that name; key: tasks with that concurrency key, of types that look at keys';
COMMENT ON COLUMN tasks.limits.rate_limit IS 'at most that many starts in any rate_seconds';
COMMENT ON COLUMN tasks.limits.weight IS 'share of the workers'' time, against other types or keys';
COMMENT ON COLUMN tasks.limits.declared_by IS 'handler: renewed with each registration; else who set it, which then stays';

-- Starts under a rate limit: what it counts. The sweep removes those out of its window.
CREATE TABLE tasks.starts (
  start_id uuid PRIMARY KEY DEFAULT partitions.uuid7(),
  limit_id uuid NOT NULL REFERENCES tasks.limits ON DELETE CASCADE,
  started_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  number integer NOT NULL,
  CONSTRAINT valid_number CHECK (number > 0)
);
CREATE INDEX idx_tasks_starts_limit ON tasks.starts (limit_id, started_at);

-- How many more tasks this limit lets start now, at most p_wanted. Derived from rows: whatever a crashed worker held is
-- free again as soon as its task is. The caller holds the limit's lock; volatile, so that what was committed before the
-- lock was given is seen.
CREATE FUNCTION tasks.free_slots(p_limit tasks.limits, p_wanted integer) RETURNS integer LANGUAGE plpgsql AS $$
DECLARE v_free integer := p_wanted; v_used integer;
BEGIN
  IF p_limit.max_running IS NOT NULL THEN
    SELECT count(*) INTO v_used FROM (
      SELECT FROM tasks.queue q
      WHERE q.status = 'running' AND CASE p_limit.scope
        WHEN 'type' THEN q.task_type = p_limit.name
        WHEN 'queue' THEN q.task_type IN (SELECT t.task_type FROM tasks.types t WHERE t.queue = p_limit.name)
        ELSE true END
      LIMIT p_limit.max_running) running;
    v_free := least(v_free, p_limit.max_running - v_used);
  END IF;
  IF p_limit.rate_limit IS NOT NULL THEN
    SELECT COALESCE(sum(s.number), 0) INTO v_used FROM tasks.starts s
    WHERE s.limit_id = p_limit.limit_id
      AND s.started_at > clock_timestamp() - make_interval(secs => p_limit.rate_seconds);
    v_free := least(v_free, p_limit.rate_limit - v_used);
  END IF;
  RETURN greatest(v_free, 0);
END $$;

-- The best ready tasks of a type, taking turns over their concurrency keys: of equal priority, the key with the least
-- running for its weight comes first. Tasks without a key count as one key without a limit; they are looked for among the
-- first 1000, since no index knows them. O(keys with ready tasks).
CREATE FUNCTION tasks.pick_by_key(p_task_type text, p_worker uuid, p_wanted integer, p_per_key integer)
RETURNS uuid[] LANGUAGE sql AS $$
  WITH RECURSIVE keys(key) AS (
    (SELECT q.concurrency_key FROM tasks.queue q
     WHERE q.task_type = p_task_type AND q.status = 'queued' AND q.concurrency_key IS NOT NULL
     ORDER BY q.concurrency_key LIMIT 1)
    UNION ALL
    SELECT (SELECT q.concurrency_key FROM tasks.queue q
            WHERE q.task_type = p_task_type AND q.status = 'queued' AND q.concurrency_key > k.key
            ORDER BY q.concurrency_key LIMIT 1)
    FROM keys k WHERE k.key IS NOT NULL
  ), busy AS (
    SELECT q.concurrency_key AS key, count(*) AS running FROM tasks.queue q
    WHERE q.task_type = p_task_type AND q.status = 'running' GROUP BY 1
  ), lines AS (
    SELECT k.key, COALESCE(b.running, 0) AS running, COALESCE(l.weight, 1) AS weight,
           least(p_wanted, COALESCE(l.max_running, p_per_key, 2147483647) - COALESCE(b.running, 0)) AS free
    FROM keys k LEFT JOIN busy b ON b.key = k.key LEFT JOIN tasks.limits l ON l.scope = 'key' AND l.name = k.key
    WHERE k.key IS NOT NULL
  ), candidates AS (
    SELECT c.task_id, c.priority, c.created_at,
           (n.running + row_number() OVER (PARTITION BY n.key ORDER BY c.priority DESC, c.created_at)) / n.weight AS turn
    FROM lines n CROSS JOIN LATERAL (
      SELECT q.task_id, q.priority, q.created_at FROM tasks.queue q
      WHERE q.task_type = p_task_type AND q.status = 'queued' AND q.concurrency_key = n.key
        AND (q.assigned_agent_id IS NULL OR q.assigned_agent_id = p_worker)
        AND (q.expires_at IS NULL OR q.expires_at > now())
      ORDER BY q.priority DESC, q.created_at LIMIT greatest(n.free, 0)) c
    UNION ALL
    SELECT c.task_id, c.priority, c.created_at,
           (SELECT COALESCE(sum(b.running), 0) FROM busy b WHERE b.key IS NULL)
             + row_number() OVER (ORDER BY c.priority DESC, c.created_at)
    FROM (
      SELECT w.task_id, w.priority, w.created_at FROM (
        SELECT q.* FROM tasks.queue q
        WHERE q.task_type = p_task_type AND q.status = 'queued'
          AND (q.assigned_agent_id IS NULL OR q.assigned_agent_id = p_worker)
          AND (q.expires_at IS NULL OR q.expires_at > now())
        ORDER BY q.priority DESC, q.created_at LIMIT 1000) w
      WHERE w.concurrency_key IS NULL
      ORDER BY w.priority DESC, w.created_at LIMIT p_wanted) c
  )
  SELECT COALESCE(array_agg(b.task_id), '{}') FROM (
    SELECT c.task_id::uuid FROM candidates c ORDER BY c.priority DESC, c.turn, c.created_at LIMIT p_wanted) b
$$;

-- What a worker may claim of a type that limits name; the ids are locked by the claim itself. One claim of a limit at a time:
-- the lock is held until the caller's transaction ends, so that nobody counts what is about to start.
CREATE FUNCTION tasks.pick_limited(p_task_type text, p_worker uuid, p_wanted integer) RETURNS SETOF uuid
LANGUAGE plpgsql SET plan_cache_mode = force_custom_plan AS $$
DECLARE
  v_queue text := COALESCE((SELECT t.queue FROM tasks.types t WHERE t.task_type = p_task_type), 'default');
  v_limit tasks.limits; v_free integer := p_wanted; v_by_key boolean := false; v_per_key integer; v_ids uuid[];
BEGIN
  FOR v_limit IN
    SELECT * FROM tasks.limits l
    WHERE l.is_limiting AND ((l.scope = 'all') OR (l.scope = 'queue' AND l.name = v_queue)
                             OR (l.scope = 'type' AND l.name = p_task_type))
    ORDER BY l.scope
  LOOP
    PERFORM pg_advisory_xact_lock(hashtext('tasks.limits'), hashtext(v_limit.limit_id::text));
    v_free := tasks.free_slots(v_limit, v_free);
    IF v_free = 0 THEN
      RETURN;
    END IF;
    IF v_limit.scope = 'type' THEN
      v_per_key := v_limit.max_running_per_key;
      v_by_key := v_limit.fair_keys OR v_per_key IS NOT NULL;
    END IF;
  END LOOP;
  IF v_by_key THEN
    v_ids := tasks.pick_by_key(p_task_type, p_worker, v_free, v_per_key);
    v_ids := ARRAY(SELECT q.task_id FROM tasks.queue q
                   WHERE q.task_type = p_task_type AND q.task_id = ANY(v_ids) AND q.status = 'queued'
                   FOR UPDATE SKIP LOCKED);
  ELSE
    v_ids := ARRAY(SELECT q.task_id FROM tasks.queue q
                   WHERE q.task_type = p_task_type AND q.status = 'queued'
                     AND (q.assigned_agent_id IS NULL OR q.assigned_agent_id = p_worker)
                     AND (q.expires_at IS NULL OR q.expires_at > now())
                   ORDER BY q.priority DESC, q.created_at LIMIT v_free FOR UPDATE SKIP LOCKED);
  END IF;
  IF cardinality(v_ids) > 0 THEN
    INSERT INTO tasks.starts (limit_id, number)
    SELECT l.limit_id, cardinality(v_ids) FROM tasks.limits l
    WHERE l.rate_limit IS NOT NULL AND ((l.scope = 'all') OR (l.scope = 'queue' AND l.name = v_queue)
                                        OR (l.scope = 'type' AND l.name = p_task_type));
  END IF;
  RETURN QUERY SELECT unnest(v_ids);
END $$;
