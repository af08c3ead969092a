-- Runtime queries of the tasks room. $leaf names the table of one task type, so that the planner looks at one partition;
-- $limit is a literal. Claims and good ends are functions: 0021_release_in_turn.sql.

-- name: leaf_of
SELECT partition_name FROM tasks.types WHERE task_type = %(task_type)s

-- name: known_types
SELECT task_type, options::text AS options FROM tasks.types

-- name: options_of
SELECT options::text AS options FROM tasks.types WHERE task_type = %(task_type)s

-- name: create_leaf
SELECT partitions.create_task_type_partition(%(task_type)s, %(lock_timeout)s) AS leaf

-- name: copy_grants
SELECT partitions.copy_grants('tasks.queue', %(leaf)s::regclass)

-- name: register_type
INSERT INTO tasks.types (task_type, partition_name, options, queue)
VALUES (%(task_type)s, %(leaf)s, %(options)s::jsonb, %(queue)s)
ON CONFLICT (task_type) DO UPDATE
SET partition_name = EXCLUDED.partition_name, options = EXCLUDED.options, queue = EXCLUDED.queue

-- name: declare_limit
-- is_plain: the handler declares nothing, so its row goes.
WITH gone AS (
  DELETE FROM tasks.limits l
  WHERE %(is_plain)s AND l.scope = 'type' AND l.name = %(task_type)s AND l.declared_by = 'handler'
)
INSERT INTO tasks.limits (
  scope, name, max_running, max_running_per_key, rate_limit, rate_seconds, fair_keys, weight, declared_by)
SELECT 'type', %(task_type)s, %(max_running)s::int, %(max_running_per_key)s::int, %(rate_limit)s::int,
       %(rate_seconds)s::float8, %(fair_keys)s, %(weight)s, 'handler'
WHERE NOT %(is_plain)s
ON CONFLICT (scope, name) DO UPDATE SET
  max_running = EXCLUDED.max_running, max_running_per_key = EXCLUDED.max_running_per_key,
  rate_limit = EXCLUDED.rate_limit, rate_seconds = EXCLUDED.rate_seconds, fair_keys = EXCLUDED.fair_keys,
  weight = EXCLUDED.weight, updated_at = now()
WHERE limits.declared_by = 'handler'

-- name: lock_tasks
-- Before the four that find tasks by their ids and change them (pause_tasks, resume_tasks, cancel, reopen), in their
-- transaction: what is locked cannot change while they run. Why they do not lock by themselves: docs/decisions/0024.
SELECT tasks.lock_tasks(%(task_ids)s::uuid[])

-- name: pause_tasks
WITH wanted AS (
  SELECT i.task_id, i.task_type FROM tasks.identity i WHERE i.task_id = ANY(%(task_ids)s::uuid[])
), locked AS (
  SELECT q.task_id, q.task_type, q.status FROM wanted w
  JOIN tasks.queue q ON q.task_id = w.task_id AND q.task_type = w.task_type
  WHERE q.status IN ('pending', 'queued', 'running')
), noted AS (
  INSERT INTO tasks.task_pauses AS p (task_id, reason, paused_by, paused_until)
  SELECT l.task_id, %(reason)s, %(paused_by)s, %(paused_until)s FROM locked l
  ON CONFLICT (task_id) DO UPDATE SET  -- resumed, and its handler has not yet gone on
    reason = EXCLUDED.reason, paused_by = EXCLUDED.paused_by, paused_at = EXCLUDED.paused_at,
    paused_until = EXCLUDED.paused_until, resumed_at = NULL
  WHERE p.resumed_at IS NOT NULL
  RETURNING p.task_id
), aside AS (
  UPDATE tasks.queue q SET status = 'paused', status_reason = NULLIF(%(reason)s, '')
  FROM locked l JOIN noted n ON n.task_id = l.task_id
  WHERE q.task_id = l.task_id AND q.task_type = l.task_type AND l.status IN ('pending', 'queued')
)
SELECT n.task_id::uuid FROM noted n

-- name: resume_tasks
-- What stands still keeps its row until its handler has gone on; what was set aside waits again, or is ready. Paused by plain
-- SQL is paused too.
WITH wanted AS (
  SELECT i.task_id, i.task_type FROM tasks.identity i WHERE i.task_id = ANY(%(task_ids)s::uuid[])
), locked AS (
  SELECT q.task_id, q.task_type, q.status FROM wanted w
  JOIN tasks.queue q ON q.task_id = w.task_id AND q.task_type = w.task_type
), gone AS (
  DELETE FROM tasks.task_pauses p USING locked l
  WHERE p.task_id = l.task_id AND (p.stands_since IS NULL OR l.status <> 'running') RETURNING p.task_id
), told AS (
  UPDATE tasks.task_pauses p SET resumed_at = now() FROM locked l
  WHERE p.task_id = l.task_id AND p.stands_since IS NOT NULL AND l.status = 'running' AND p.resumed_at IS NULL
  RETURNING p.task_id
), back AS (
  UPDATE tasks.queue q SET
    status = CASE WHEN q.blocked_by > 0 OR q.scheduled_at > now() THEN 'pending' ELSE 'queued' END::task_status_type,
    status_reason = NULL
  FROM locked l WHERE q.task_id = l.task_id AND q.task_type = l.task_type AND l.status = 'paused'
  RETURNING q.task_id, q.task_type, q.status
)
SELECT x.task_id::uuid, (SELECT b.task_type FROM back b WHERE b.task_id = x.task_id AND b.status = 'queued') AS task_type
FROM (SELECT task_id FROM gone UNION SELECT task_id FROM told UNION SELECT task_id FROM back) x

-- name: due_task_pauses
-- A handler that stands still sees by itself that the time has come.
SELECT p.task_id::uuid FROM tasks.task_pauses p
WHERE p.paused_until <= now() AND p.stands_since IS NULL ORDER BY p.paused_until LIMIT 1000

-- name: forget_task_pauses
-- Of tasks that have ended; and of handlers that ended while they stood still, after the pause itself was over.
DELETE FROM tasks.task_pauses p USING tasks.identity i
WHERE i.task_id = p.task_id AND (
  EXISTS (SELECT FROM tasks.queue q WHERE q.task_id = i.task_id AND q.task_type = i.task_type AND q.completed_at IS NOT NULL)
  OR (p.stands_since IS NOT NULL AND (p.resumed_at IS NOT NULL OR p.paused_until <= now()) AND EXISTS (
    SELECT FROM tasks.queue q WHERE q.task_id = i.task_id AND q.task_type = i.task_type AND q.status <> 'running')))
RETURNING p.task_id

-- name: look_at_pause
SELECT
  EXISTS (
    SELECT FROM $leaf q
    WHERE q.task_id = %(task_id)s AND q.task_type = %(task_type)s
      AND q.worker = %(worker)s AND q.attempt = %(attempt)s AND q.status = 'running') AS is_mine,
  EXISTS (
    SELECT FROM tasks.task_pauses p
    WHERE p.task_id = %(task_id)s AND p.resumed_at IS NULL AND COALESCE(p.paused_until, 'infinity') > clock_timestamp())
  AS is_paused

-- name: task_pauses_of
SELECT p.task_id::uuid, p.stands_since,
       p.resumed_at IS NULL AND COALESCE(p.paused_until, 'infinity') > clock_timestamp() AS is_paused
FROM tasks.task_pauses p WHERE p.task_id = ANY(%(task_ids)s::uuid[])

-- name: stand_still
WITH mine AS (
  UPDATE $leaf q SET status_reason = 'stands still' || COALESCE(': ' || NULLIF(p.reason, ''), '')
  FROM tasks.task_pauses p
  WHERE p.task_id = q.task_id AND q.task_id = %(task_id)s AND q.task_type = %(task_type)s
    AND q.worker = %(worker)s AND q.attempt = %(attempt)s AND q.status = 'running'
  RETURNING q.task_id
)
UPDATE tasks.task_pauses p SET stands_since = clock_timestamp() FROM mine m WHERE p.task_id = m.task_id
RETURNING p.task_id::uuid

-- name: go_on
-- Fenced: another attempt may stand still by now. A pause that is not over holds for the next attempt.
WITH mine AS (
  UPDATE $leaf q SET
    status_reason = NULL, max_execution_time = q.max_execution_time + (clock_timestamp() - p.stands_since)
  FROM tasks.task_pauses p
  WHERE p.task_id = q.task_id AND p.stands_since IS NOT NULL AND q.task_id = %(task_id)s AND q.task_type = %(task_type)s
    AND q.worker = %(worker)s AND q.attempt = %(attempt)s AND q.status = 'running'
  RETURNING q.task_id, p.resumed_at IS NOT NULL OR COALESCE(p.paused_until, 'infinity') <= clock_timestamp() AS is_over
), gone AS (
  DELETE FROM tasks.task_pauses p USING mine m WHERE p.task_id = m.task_id AND m.is_over
), kept AS (
  UPDATE tasks.task_pauses p SET stands_since = NULL FROM mine m WHERE p.task_id = m.task_id AND NOT m.is_over
)
SELECT m.task_id::uuid FROM mine m

-- name: end_pauses
WITH types AS (
  DELETE FROM tasks.pauses p WHERE p.paused_until <= now() RETURNING p.task_type
), queues AS (
  DELETE FROM tasks.queue_pauses p WHERE p.paused_until <= now() RETURNING p.queue
)
SELECT t.task_type, NULL AS queue FROM types t UNION ALL SELECT NULL, q.queue FROM queues q

-- name: forget_starts
-- Starts that no rate looks at any more.
DELETE FROM tasks.starts s USING tasks.limits l
WHERE l.limit_id = s.limit_id AND s.started_at < now() - make_interval(secs => COALESCE(l.rate_seconds, 0))

-- name: next_type
-- Whose turn it is among ready types of one queue: a lot, by weight.
SELECT t.task_type FROM tasks.types t
LEFT JOIN tasks.limits l ON l.scope = 'type' AND l.name = t.task_type
CROSS JOIN LATERAL (
  SELECT 1 FROM tasks.queue q
  WHERE q.task_type = t.task_type AND q.status = 'queued' AND q.assigned_agent_id IS NULL LIMIT 1) ready
WHERE t.task_type = ANY(%(task_types)s) AND t.queue = %(queue)s
  AND NOT EXISTS (SELECT FROM tasks.pauses p WHERE p.task_type = t.task_type)
ORDER BY -ln(1 - random()) / COALESCE(l.weight, 1) LIMIT 1

-- name: enqueue
-- One statement: the keys first, then the tasks whose key was free. Rows of unnest keep the order of the arrays.
WITH given AS (
  SELECT * FROM unnest(
    %(task_ids)s::uuid[], %(task_types)s::text[], %(task_names)s::text[], %(payloads)s::jsonb[],
    %(priorities)s::text[]::task_priority_type[], %(scheduled_ats)s::timestamptz[], %(expires_ats)s::timestamptz[],
    %(max_retries)s::int[], %(timeouts)s::float8[], %(unique_keys)s::text[], %(concurrency_keys)s::text[],
    %(assigned_agents)s::uuid[], %(created_bys)s::uuid[], %(parents)s::uuid[], %(resources)s::text[],
    %(unique_seconds)s::float8[], %(free_at_starts)s::boolean[], %(metadata)s::jsonb[], %(blocked_bys)s::int[]
  ) AS g (task_id, task_type, task_name, payload, priority, scheduled_at, expires_at, max_retries, timeout_seconds,
          unique_key, concurrency_key, assigned_agent_id, created_by_agent_id, parent_task_id,
          resources, unique_seconds, free_at_start, metadata, blocked_by)
), keyed AS (
  INSERT INTO tasks.unique_keys (unique_key, task_id, held_until, free_at_start)
  SELECT unique_key, task_id, now() + make_interval(secs => unique_seconds), free_at_start FROM given WHERE unique_key IS NOT NULL ORDER BY unique_key
  ON CONFLICT (unique_key) DO NOTHING
  RETURNING task_id
)
INSERT INTO tasks.queue (
  task_id, task_type, task_name, payload, priority, scheduled_at, expires_at, max_retries, max_execution_time,
  unique_key, concurrency_key, assigned_agent_id, created_by_agent_id, parent_task_id, resources, metadata, blocked_by)
SELECT task_id, task_type, task_name, payload, priority, scheduled_at, expires_at, max_retries,
       make_interval(secs => timeout_seconds), unique_key, concurrency_key, assigned_agent_id, created_by_agent_id,
       parent_task_id, resources::varchar[], metadata, COALESCE(blocked_by, 0)
FROM given
WHERE unique_key IS NULL OR task_id IN (SELECT k.task_id FROM keyed k)
RETURNING task_id::uuid

-- name: enqueue_one
-- One task without a key, straight into its leaf. Many go by COPY.
INSERT INTO $leaf (
  task_id, task_type, task_name, payload, priority, status, scheduled_at, expires_at, max_retries, max_execution_time,
  concurrency_key, assigned_agent_id, created_by_agent_id, parent_task_id, resources, metadata, blocked_by)
VALUES (
  %(task_id)s::uuid, %(task_type)s::text, %(task_name)s::text, %(payload)s::jsonb, %(priority)s::task_priority_type,
  %(status)s::task_status_type, %(scheduled_at)s::timestamptz, %(expires_at)s::timestamptz, %(max_retries)s::int,
  make_interval(secs => %(timeout_seconds)s::float8), %(concurrency_key)s::text, %(assigned_agent)s::uuid,
  %(created_by)s::uuid, %(parent)s::uuid, %(resources)s::varchar[], %(metadata)s::jsonb,
  COALESCE(%(blocked_by)s::int, 0))

-- name: key_holders
SELECT unique_key, task_id FROM tasks.unique_keys WHERE unique_key = ANY(%(unique_keys)s::text[])

-- name: add_dependencies
INSERT INTO tasks.dependencies (task_id, depends_on_task_id, dependency_type, input_name)
SELECT g.task_id, g.depends_on, COALESCE(g.kind, 'completion'), g.input_name
FROM unnest(%(task_ids)s::uuid[], %(depends_on)s::uuid[], %(kinds)s::text[], %(input_names)s::text[])
AS g (task_id, depends_on, kind, input_name)

-- name: inputs_of
-- The results that a task's data dependencies brought: of each the newest completed attempt.
SELECT COALESCE(d.input_name, d.depends_on_task_id::text) AS name, e.result::text AS result
FROM tasks.dependencies d
CROSS JOIN LATERAL (
  SELECT x.result FROM tasks.executions x
  WHERE x.task_id = d.depends_on_task_id AND x.status = 'completed'
    AND x.execution_id >= partitions.uuid7_floor(partitions.uuid7_time(d.depends_on_task_id) - interval '10 minutes')
  ORDER BY x.execution_id DESC LIMIT 1) e
WHERE d.task_id = %(task_id)s AND d.dependency_type = 'data'
ORDER BY 1

-- name: free_old_keys
-- Keys whose time is over and whose task has ended.
DELETE FROM tasks.unique_keys k USING tasks.identity i
WHERE k.held_until <= now() AND i.task_id = k.task_id
  AND NOT EXISTS (
    SELECT FROM tasks.queue q
    WHERE q.task_id = i.task_id AND q.task_type = i.task_type AND q.completed_at IS NULL)
RETURNING k.unique_key

-- name: wake_waiters
-- Resources that are free although somebody waits: whoever was to be next ended or was paused.
SELECT tasks.wake_waiter(w.resource) AS task_type
FROM (
  SELECT DISTINCT x.resource FROM tasks.resource_waiters x
  WHERE NOT EXISTS (SELECT FROM tasks.resource_holders h WHERE h.resource = x.resource)) w

-- name: has_ready
SELECT EXISTS (
  SELECT FROM $leaf r
  WHERE r.task_type = %(task_type)s AND r.status = 'queued' AND r.assigned_agent_id IS NULL LIMIT 1) AS found

-- name: fail
-- Fenced: nothing happens once the lease was taken over or the task was cancelled. A retry goes back to pending until its delay is over (to queued when there is none).
WITH failed AS (
  UPDATE $leaf q SET
    status = CASE
      WHEN NOT %(may_retry)s OR q.retry_count >= q.max_retries THEN 'failed'
      WHEN %(delay_seconds)s > 0 THEN 'pending'
      ELSE 'queued' END::task_status_type,
    status_reason = %(reason)s,
    retry_count = q.retry_count + (%(may_retry)s AND q.retry_count < q.max_retries)::int,
    scheduled_at = CASE WHEN %(may_retry)s AND q.retry_count < q.max_retries
      THEN clock_timestamp() + make_interval(secs => %(delay_seconds)s) ELSE q.scheduled_at END,
    completed_at = CASE WHEN %(may_retry)s AND q.retry_count < q.max_retries
      THEN NULL ELSE greatest(clock_timestamp(), q.started_at) END,
    lease_until = NULL
  WHERE q.task_id = %(task_id)s AND q.task_type = %(task_type)s
    AND q.worker = %(worker)s AND q.attempt = %(attempt)s AND q.status = 'running'
  RETURNING q.task_id, q.status, q.attempt, q.worker
), closed AS (
  UPDATE tasks.executions e SET
    status = 'failed',
    completed_at = greatest(clock_timestamp(), e.started_at),
    error_message = %(reason)s, error_details = %(error_details)s::jsonb,
    cpu_time_ms = %(cpu_time_ms)s, memory_peak_mb = %(memory_peak_mb)s, io_operations = %(io_operations)s,
    log_lines = %(logs)s
  FROM failed f
  WHERE e.task_id = f.task_id AND e.execution_attempt = f.attempt AND e.agent_id = f.worker
    AND e.completed_at IS NULL
    AND (%(execution_id)s::uuid IS NULL OR e.execution_id = %(execution_id)s::uuid)
)
SELECT f.status::text AS status FROM failed f

-- name: give_back
-- Fenced. Claimed and never begun: ready again, as it was but for the attempt, which is never given out twice.
WITH back AS (
  UPDATE $leaf q SET status = 'queued', lease_until = NULL, started_at = NULL
  FROM unnest(%(task_ids)s::uuid[], %(attempts)s::int[], %(execution_ids)s::uuid[]) AS mine (task_id, attempt, execution_id)
  WHERE q.task_id = mine.task_id AND q.task_type = %(task_type)s AND q.attempt = mine.attempt
    AND q.worker = %(worker)s AND q.status = 'running'
  RETURNING q.task_id, mine.execution_id
), closed AS (
  UPDATE tasks.executions e SET
    status = 'cancelled', completed_at = greatest(clock_timestamp(), e.started_at),
    error_message = 'given back before it began'
  FROM back b WHERE e.execution_id = b.execution_id
)
SELECT b.task_id::uuid FROM back b

-- name: heartbeat_leases
-- The tasks that are still this worker's; a lease never outlives max_execution_time by more than the grace, unless the
-- task stands still (tasks.task_pauses).
UPDATE tasks.queue q SET lease_until = least(
  clock_timestamp() + make_interval(secs => %(lease_seconds)s),
  CASE WHEN NOT EXISTS (
    SELECT FROM tasks.task_pauses p WHERE p.task_id = q.task_id AND p.stands_since IS NOT NULL)
  THEN q.started_at + q.max_execution_time + make_interval(secs => %(grace_seconds)s) END)
FROM unnest(%(task_ids)s::uuid[], %(task_types)s::text[], %(attempts)s::int[]) AS mine (task_id, task_type, attempt)
WHERE q.task_id = mine.task_id AND q.task_type = mine.task_type AND q.attempt = mine.attempt
  AND q.worker = %(worker)s AND q.status = 'running'
RETURNING q.task_id::uuid

-- name: set_progress
UPDATE $leaf q SET progress = %(progress)s::jsonb
WHERE q.task_id = %(task_id)s AND q.task_type = %(task_type)s
  AND q.worker = %(worker)s AND q.attempt = %(attempt)s AND q.status = 'running'
RETURNING q.task_id::uuid

-- name: is_mine
SELECT EXISTS (
  SELECT FROM $leaf q
  WHERE q.task_id = %(task_id)s AND q.task_type = %(task_type)s
    AND q.worker = %(worker)s AND q.attempt = %(attempt)s AND q.status = 'running') AS found

-- name: cancel
WITH wanted AS (
  SELECT i.task_id, i.task_type FROM tasks.identity i WHERE i.task_id = ANY(%(task_ids)s::uuid[])
), locked AS (
  SELECT q.task_id, q.task_type, q.status FROM wanted w
  JOIN tasks.queue q ON q.task_id = w.task_id AND q.task_type = w.task_type
  WHERE q.status IN ('pending', 'queued', 'running', 'paused')
), cancelled AS (
  UPDATE tasks.queue q SET
    status = 'cancelled', status_reason = %(reason)s, lease_until = NULL,
    completed_at = greatest(clock_timestamp(), q.created_at, q.started_at)
  FROM locked l
  WHERE q.task_id = l.task_id AND q.task_type = l.task_type
  RETURNING q.task_id, q.attempt, l.status AS was
), closed AS (
  UPDATE tasks.executions e SET
    status = 'cancelled', completed_at = greatest(clock_timestamp(), e.started_at), error_message = %(reason)s
  FROM cancelled c
  WHERE c.was = 'running' AND e.task_id = c.task_id AND e.execution_attempt = c.attempt AND e.completed_at IS NULL
)
SELECT task_id::uuid FROM cancelled

-- name: reopen
-- An operator's retry: finished without success, once more with all its retries.
WITH wanted AS (
  SELECT i.task_id, i.task_type FROM tasks.identity i WHERE i.task_id = ANY(%(task_ids)s::uuid[])
), locked AS (
  SELECT q.task_id, q.task_type FROM wanted w
  JOIN tasks.queue q ON q.task_id = w.task_id AND q.task_type = w.task_type
  WHERE q.status IN ('failed', 'cancelled')
)
UPDATE tasks.queue q SET
  status = CASE WHEN q.blocked_by > 0 THEN 'pending' ELSE 'queued' END::task_status_type,
  status_reason = %(reason)s, retry_count = 0, completed_at = NULL, scheduled_at = NULL, worker = NULL,
  expires_at = CASE WHEN q.expires_at <= now() THEN NULL ELSE q.expires_at END
FROM locked l
WHERE q.task_id = l.task_id AND q.task_type = l.task_type
RETURNING q.task_id::uuid, q.task_type

-- name: failed_tasks
SELECT q.task_id::uuid FROM tasks.queue q
WHERE q.status = 'failed' AND (%(task_type)s::text IS NULL OR q.task_type = %(task_type)s)
ORDER BY q.created_at LIMIT $limit

-- name: promote_due
UPDATE tasks.queue q SET status = 'queued'
FROM (
  SELECT d.task_id, d.task_type FROM tasks.queue d
  WHERE d.status = 'pending' AND d.scheduled_at <= now() AND d.blocked_by = 0
  ORDER BY d.scheduled_at LIMIT $limit FOR UPDATE SKIP LOCKED) due
WHERE q.task_id = due.task_id AND q.task_type = due.task_type AND q.status = 'pending'
RETURNING q.task_id::uuid

-- name: expired_leases
SELECT q.task_id::uuid, q.task_type, q.attempt, q.worker, q.retry_count FROM tasks.queue q
WHERE q.status = 'running' AND q.lease_until < clock_timestamp()
ORDER BY q.lease_until LIMIT $limit FOR UPDATE SKIP LOCKED

-- name: tasks_in_hand
-- How many tasks each of these Celery processes holds. It runs one at a time: of several, all but one wait in its hand.
SELECT q.worker, count(*) AS number FROM tasks.queue q
JOIN agents.registry r ON r.agent_id = q.worker AND r.agent_type = 'celery-worker'
WHERE q.status = 'running' AND q.worker = ANY(%(workers)s::uuid[]) GROUP BY q.worker

-- name: take_back_hand
-- Fenced. What a process had in hand when its leases ran out: ready again at once, no retry is spent.
WITH back AS (
  UPDATE tasks.queue q SET status = 'queued', status_reason = %(reason)s, lease_until = NULL
  FROM unnest(%(task_ids)s::uuid[], %(task_types)s::text[], %(attempts)s::int[]) AS held (task_id, task_type, attempt)
  WHERE q.task_id = held.task_id AND q.task_type = held.task_type AND q.attempt = held.attempt
    AND q.worker = %(worker)s AND q.status = 'running'
  RETURNING q.task_id, q.task_type, q.attempt
), closed AS (
  UPDATE tasks.executions e SET
    status = 'failed', completed_at = greatest(clock_timestamp(), e.started_at),
    error_message = %(reason)s, error_details = %(error_details)s::jsonb
  FROM back b
  WHERE e.task_id = b.task_id AND e.execution_attempt = b.attempt AND e.agent_id = %(worker)s AND e.completed_at IS NULL
)
SELECT b.task_id::uuid, b.task_type FROM back b

-- name: died_in_company
-- Of these tasks those whose last attempt, but for those given back, ended with a process that had others in hand too.
SELECT m.task_id FROM unnest(%(task_ids)s::uuid[]) AS m (task_id)
CROSS JOIN LATERAL (
  SELECT e.error_details FROM tasks.executions e
  WHERE e.task_id = m.task_id AND e.status = 'failed'
    AND e.execution_id >= partitions.uuid7_floor(partitions.uuid7_time(m.task_id) - interval '10 minutes')
  ORDER BY e.execution_id DESC LIMIT 1) last
WHERE last.error_details ->> 'type' = 'lease_expired' AND (last.error_details ->> 'in_hand')::int > 1

-- name: expired_tasks
SELECT q.task_id::uuid FROM tasks.queue q
WHERE q.status IN ('pending', 'queued') AND q.expires_at <= now()
ORDER BY q.expires_at LIMIT $limit FOR UPDATE SKIP LOCKED

-- name: ready_types
-- LATERAL with LIMIT: one probe of each leaf's ready index, whatever the backlog.
SELECT t.task_type FROM tasks.types t
CROSS JOIN LATERAL (
  SELECT 1 FROM tasks.queue q
  WHERE q.task_type = t.task_type AND q.status = 'queued'
    AND (q.assigned_agent_id IS NULL OR q.assigned_agent_id IN (
      SELECT r.agent_id FROM agents.registry r WHERE r.agent_type = 'celery-worker' AND r.status = 'active'))
  LIMIT 1) ready
WHERE COALESCE(t.options ->> 'done_by', '') <> 'agents'
  AND NOT EXISTS (SELECT FROM tasks.pauses p WHERE p.task_type = t.task_type)
  AND NOT EXISTS (SELECT FROM tasks.queue_pauses p WHERE p.queue = t.queue)
ORDER BY t.task_type

-- name: leased_to
SELECT q.task_id::uuid FROM tasks.queue q
WHERE q.worker = %(worker)s AND q.status = 'running' ORDER BY q.lease_until LIMIT $limit

-- name: held_of
-- Those of the tasks that are leased to this agent, each with the execution of its present attempt.
SELECT q.task_id::uuid, q.task_type, q.worker, q.attempt, q.retry_count, q.payload::text AS payload,
       e.execution_id::uuid, extract(epoch FROM q.max_execution_time)::float8 AS timeout_seconds
FROM (SELECT i.task_id, i.task_type FROM tasks.identity i WHERE i.task_id = ANY(%(task_ids)s::uuid[]) OFFSET 0) w
JOIN tasks.queue q ON q.task_id = w.task_id AND q.task_type = w.task_type
CROSS JOIN LATERAL (
  SELECT x.execution_id FROM tasks.executions x
  WHERE x.task_id = q.task_id AND x.execution_attempt = q.attempt AND x.agent_id = q.worker AND x.completed_at IS NULL
    AND x.execution_id >= partitions.uuid7_floor(partitions.uuid7_time(q.task_id) - interval '10 minutes')
  ORDER BY x.execution_id DESC LIMIT 1) e
WHERE q.worker = %(worker)s AND q.status = 'running'

-- name: statuses_of
SELECT q.task_id::uuid, q.status::text AS status
FROM (SELECT i.task_id, i.task_type FROM tasks.identity i WHERE i.task_id = ANY(%(task_ids)s::uuid[]) OFFSET 0) w
JOIN tasks.queue q ON q.task_id = w.task_id AND q.task_type = w.task_type

-- name: ready_among
SELECT t.task_type FROM tasks.types t
CROSS JOIN LATERAL (
  SELECT 1 FROM tasks.queue q WHERE q.task_type = t.task_type AND q.status = 'queued' LIMIT 1) ready
WHERE t.task_type = ANY(%(task_types)s)

-- name: lost_workers
SELECT r.agent_id::uuid FROM agents.registry r
WHERE r.agent_type = 'celery-worker' AND r.status <> 'terminated' AND r.liveness = 'lost'

-- name: count_tasks
-- At most $limit rows of each type and status are counted, by index (status, created_at) of each leaf.
SELECT t.task_type, s.status::text AS status, c.number
FROM tasks.types t
CROSS JOIN unnest(enum_range(NULL::task_status_type)) AS s (status)
CROSS JOIN LATERAL (
  SELECT count(*) AS number FROM (
    SELECT 1 FROM tasks.queue q WHERE q.task_type = t.task_type AND q.status = s.status LIMIT $limit) x) c
WHERE c.number > 0
UNION ALL
SELECT NULL, s.status::text, c.number
FROM unnest(enum_range(NULL::task_status_type)) AS s (status)
CROSS JOIN LATERAL (
  SELECT count(*) AS number FROM (
    SELECT 1 FROM tasks.queue_default q WHERE q.status = s.status LIMIT $limit) x) c
WHERE c.number > 0
ORDER BY 1 NULLS LAST, 2

-- name: oldest_ready
-- Age of the oldest ready task over all leaves, or those that workers claim from; NULL: nothing is ready.
SELECT extract(epoch FROM now() - min(x.created_at))::float8 AS age_seconds
FROM (
  SELECT probe.created_at FROM tasks.types t
  CROSS JOIN LATERAL (
    SELECT q.created_at FROM tasks.queue q
    WHERE q.task_type = t.task_type AND q.status = 'queued' ORDER BY q.created_at LIMIT 1) probe
  WHERE NOT %(of_workers)s OR COALESCE(t.options ->> 'done_by', '') <> 'agents'
  UNION ALL
  (SELECT q.created_at FROM tasks.queue_default q WHERE q.status = 'queued' ORDER BY q.created_at LIMIT 1)) x

-- name: recent_executions
-- Attempts of the last hour, found by the id's time; those that started earlier are missed.
SELECT count(*) FILTER (WHERE x.status = 'completed' AND x.completed_at > now() - interval '1 minute') AS last_minute,
       count(*) FILTER (WHERE x.status = 'failed') AS failed_last_hour
FROM (
  SELECT e.status, e.completed_at FROM tasks.executions e
  WHERE e.execution_id >= partitions.uuid7_floor(now() - interval '1 hour')
    AND e.completed_at > now() - interval '1 hour'
  ORDER BY e.execution_id DESC LIMIT $limit) x

-- name: silent_leases
SELECT count(*) AS number, max(extract(epoch FROM now() - x.lease_until))::float8 AS age_seconds
FROM (
  SELECT q.lease_until FROM tasks.queue q
  WHERE q.status = 'running' AND q.lease_until < now() - make_interval(secs => %(grace_seconds)s)
  ORDER BY q.lease_until LIMIT $limit) x

-- name: living_workers
SELECT count(*) AS number FROM agents.registry r JOIN agents.heartbeats h ON h.agent_id = r.agent_id
WHERE r.agent_type = 'celery-worker' AND r.status <> 'terminated'
  AND h.last_heartbeat > now() - make_interval(secs => %(silence_seconds)s)

-- name: default_leaf_types
-- Types with rows in DEFAULT, and whether they are registered; capped.
SELECT x.task_type, t.task_type IS NOT NULL AS is_registered, count(*) AS number
FROM (SELECT task_type FROM tasks.queue_default LIMIT $limit) x
LEFT JOIN tasks.types t ON t.task_type = x.task_type
GROUP BY 1, 2 ORDER BY 1

-- name: incomplete_leaves
-- What a leaf lacks, and the statement that gives it to it. Without the parent's statement triggers, DML on the leaf would
-- go unseen; without its function, nobody claims from it.
SELECT x.leaf, x.lacks, x.cure FROM (
  SELECT c.oid::regclass::text AS leaf, 'the trigger ' || t.tgname AS lacks,
         format('SELECT partitions.copy_statement_triggers(''tasks.queue'', %%L)', c.oid::regclass) AS cure
  FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
  JOIN pg_trigger t ON t.tgrelid = i.inhparent AND NOT t.tgisinternal AND (t.tgtype & 1) = 0
  WHERE i.inhparent = 'tasks.queue'::regclass
    AND NOT EXISTS (SELECT FROM pg_trigger l WHERE l.tgrelid = c.oid AND l.tgname = t.tgname)
  UNION ALL
  SELECT t.relid::text, 'the function turn_' || c.relname, format('SELECT tasks.make_turn(%%L)', t.relid)
  FROM pg_partition_tree('tasks.queue') t JOIN pg_class c ON c.oid = t.relid
  WHERE NOT EXISTS (
    SELECT FROM pg_proc p WHERE p.pronamespace = 'tasks'::regnamespace AND p.proname = 'turn_' || c.relname)) x
ORDER BY 1, 2

-- name: running_executions
-- Of each task that runs, the attempt that does. No attempt begins before its task is there, but for clocks.
SELECT e.execution_id::uuid
FROM (
  SELECT q.task_id, q.attempt, q.worker FROM tasks.queue q
  WHERE q.status = 'running' ORDER BY q.lease_until DESC LIMIT $limit) r
CROSS JOIN LATERAL (
  SELECT x.execution_id FROM tasks.executions x
  WHERE x.task_id = r.task_id AND x.execution_attempt = r.attempt AND x.agent_id = r.worker AND x.completed_at IS NULL
    AND x.execution_id >= partitions.uuid7_floor(partitions.uuid7_time(r.task_id) - interval '10 minutes') OFFSET 0) e

-- name: executions_by_minute
-- Attempts of the last hour by the minute they ended in, among the newest $limit, found by the id's time. is_whole: all
-- attempts that started in or after that minute were read.
WITH newest AS (
  SELECT e.execution_id, e.status, e.completed_at FROM tasks.executions e
  WHERE e.execution_id >= partitions.uuid7_floor(date_trunc('minute', now()) - interval '59 minutes')
  ORDER BY e.execution_id DESC LIMIT $limit
), reach AS (
  SELECT CASE WHEN count(*) < $limit THEN '-infinity' ELSE
    (SELECT partitions.uuid7_time(n.execution_id) FROM newest n ORDER BY n.execution_id LIMIT 1) END AS since
  FROM newest
), ended AS (
  SELECT date_trunc('minute', n.completed_at) AS minute,
         count(*) FILTER (WHERE n.status = 'completed') AS completed,
         count(*) FILTER (WHERE n.status = 'failed') AS failed
  FROM newest n WHERE n.completed_at IS NOT NULL GROUP BY 1
)
SELECT m.minute, COALESCE(e.completed, 0) AS completed, COALESCE(e.failed, 0) AS failed,
       m.minute >= r.since AS is_whole
FROM generate_series(
  date_trunc('minute', now()) - interval '59 minutes', date_trunc('minute', now()), interval '1 minute') AS m (minute)
CROSS JOIN reach r LEFT JOIN ended e ON e.minute = m.minute
ORDER BY m.minute

-- name: retention_rules
-- Of each leaf, what holds: the operator's row, the handler's options, the defaults.
SELECT x.task_type, x.leaf,
       COALESCE(r.keep_completed_days, (x.options ->> 'keep_completed_days')::float8, %(default_completed)s::float8)
         AS keep_completed_days,
       COALESCE(r.keep_failed_days, (x.options ->> 'keep_failed_days')::float8, %(default_failed)s::float8)
         AS keep_failed_days,
       COALESCE(r.keep_cancelled_days, (x.options ->> 'keep_cancelled_days')::float8, %(default_cancelled)s::float8)
         AS keep_cancelled_days
FROM (
  SELECT t.task_type, t.partition_name AS leaf, t.options FROM tasks.types t
  UNION ALL SELECT '*', 'tasks.queue_default', '{}') x
LEFT JOIN tasks.retention r ON r.task_type = x.task_type
ORDER BY x.task_type

-- name: count_overdue
SELECT count(*) AS number FROM (
  SELECT FROM $leaf q
  WHERE q.status = %(status)s::task_status_type
    AND q.created_at < now() - make_interval(secs => %(keep_days)s * 86400)
    AND q.completed_at < now() - make_interval(secs => %(keep_days)s * 86400)
  LIMIT $limit) x

-- name: overdue
-- By index (status, created_at): a task was created before it ended. Not what an open task still reads.
SELECT q.task_id::uuid FROM $leaf q
WHERE q.status = %(status)s::task_status_type
  AND q.created_at < now() - make_interval(secs => %(keep_days)s * 86400)
  AND q.completed_at < now() - make_interval(secs => %(keep_days)s * 86400)
  AND NOT EXISTS (
    SELECT FROM tasks.dependencies w JOIN tasks.identity i ON i.task_id = w.task_id
    JOIN tasks.queue o ON o.task_id = i.task_id AND o.task_type = i.task_type
    WHERE w.depends_on_task_id = q.task_id AND o.completed_at IS NULL)
ORDER BY q.created_at LIMIT $limit

-- name: prune
-- What was overdue, and still is: it may have been opened again since. A statement of its own: one that locks joins no
-- partitioned table (docs/decisions/0024).
DELETE FROM $leaf d WHERE (d.task_id, d.task_type) IN (
  SELECT q.task_id, q.task_type FROM $leaf q
  WHERE q.task_id = ANY(%(task_ids)s::uuid[]) AND q.status = %(status)s::task_status_type
    AND q.completed_at < now() - make_interval(secs => %(keep_days)s * 86400)
  FOR UPDATE OF q SKIP LOCKED)

-- name: matching_tasks
-- A page of what a bulk action's filter means, by id.
SELECT q.task_id::uuid FROM tasks.queue q
WHERE ($filter) AND q.task_id > %(position)s ORDER BY q.task_id LIMIT $limit

-- name: count_matching
SELECT count(*) AS number FROM tasks.queue q WHERE $filter

-- name: with_children
-- The tasks, and their children down the line.
WITH RECURSIVE family(task_id) AS (
  SELECT unnest(%(task_ids)s::uuid[])
  UNION
  SELECT q.task_id::uuid FROM family f JOIN tasks.queue q ON q.parent_task_id = f.task_id)
SELECT task_id FROM family

-- name: tasks_before
-- What these tasks wait for or were enqueued by, but for the known ones: up to $most, what still blocks first; `number` there
-- are, of the first $limit.
WITH near AS (
  SELECT d.depends_on_task_id::uuid AS task_id, d.released_at IS NULL AS is_open
  FROM tasks.dependencies d WHERE d.task_id = ANY(%(task_ids)s::uuid[])
  UNION ALL
  SELECT q.parent_task_id::uuid, false
  FROM (SELECT i.task_id, i.task_type FROM tasks.identity i WHERE i.task_id = ANY(%(task_ids)s::uuid[]) OFFSET 0) w
  JOIN tasks.queue q ON q.task_id = w.task_id AND q.task_type = w.task_type
  WHERE q.parent_task_id IS NOT NULL
  LIMIT $limit)
SELECT n.task_id, count(*) OVER () AS number FROM near n
WHERE n.task_id <> ALL(%(known)s::uuid[])
GROUP BY n.task_id ORDER BY bool_or(n.is_open) DESC, n.task_id LIMIT $most

-- name: tasks_after
-- The same the other way: what waits for these tasks, and what they have enqueued.
WITH near AS (
  SELECT d.task_id::uuid AS task_id, d.released_at IS NULL AS is_open
  FROM tasks.dependencies d WHERE d.depends_on_task_id = ANY(%(task_ids)s::uuid[])
  UNION ALL
  SELECT q.task_id::uuid, q.completed_at IS NULL FROM tasks.queue q WHERE q.parent_task_id = ANY(%(task_ids)s::uuid[])
  LIMIT $limit)
SELECT n.task_id, count(*) OVER () AS number FROM near n
WHERE n.task_id <> ALL(%(known)s::uuid[])
GROUP BY n.task_id ORDER BY bool_or(n.is_open) DESC, n.task_id LIMIT $most

-- name: tasks_of_graph
-- NULL for the status of a task that retention has removed.
SELECT w.task_id::uuid, w.task_type, q.task_name, q.status::text AS status, q.parent_task_id::uuid AS parent_id
FROM (SELECT i.task_id, i.task_type FROM tasks.identity i WHERE i.task_id = ANY(%(task_ids)s::uuid[]) OFFSET 0) w
LEFT JOIN tasks.queue q ON q.task_id = w.task_id AND q.task_type = w.task_type

-- name: edges_among
SELECT d.depends_on_task_id::uuid AS source, d.task_id::uuid AS target, d.dependency_type AS kind, d.released_at IS NULL AS is_open
FROM tasks.dependencies d
WHERE d.task_id = ANY(%(task_ids)s::uuid[]) AND d.depends_on_task_id = ANY(%(task_ids)s::uuid[])
ORDER BY d.dependency_id
