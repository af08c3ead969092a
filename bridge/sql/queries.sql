-- Runtime queries of the bridge. A position is (kv_epoch, kv_revision): of two writes of a key the one with the higher
-- position is the later. Those that write run after `SET LOCAL sync.origin = 'kv'`.

-- name: lock_agent_state
-- Returns the places (0 is the first) of rows that are there. A writer in PostgreSQL who has a row now is waited for, so
-- that what he puts into the outbox is seen by the next query.
SELECT g.place - 1 FROM agents.state s
JOIN unnest(%(agent_ids)s::uuid[], %(state_keys)s::text[]) WITH ORDINALITY AS g (agent_id, state_key, place)
USING (agent_id, state_key)
ORDER BY s.agent_id, s.state_key FOR NO KEY UPDATE OF s

-- name: hold_epochs
SELECT 1 FROM agents.registry WHERE agent_id = ANY(%(agent_ids)s::uuid[]) ORDER BY agent_id FOR SHARE

-- name: flush_agent_state
-- Returns the places of those that were not applied, and why. `waits`: a write from PostgreSQL is on its way, and the
-- relay settles first who wins. A row that came up after the locks is left alone: `waits` too. So no row that this
-- statement changes can be changed by another meanwhile, which makes pruning at run time safe (bridge.session.pruning).
-- As one INSERT ... ON CONFLICT DO UPDATE it took a tenth longer. COALESCE has the planner expect half of the rows, not
-- one: for one it would as soon read a whole leaf that was empty when the plan was made.
WITH judged AS MATERIALIZED (
  SELECT g.*, s.state_id, CASE
      WHEN r.agent_id IS NULL AND g.value IS NOT NULL THEN 'unknown'
      WHEN r.agent_id IS NULL
        OR (%(epoch)s::bigint, g.revision) <= (COALESCE(s.kv_epoch, 0), COALESCE(s.kv_revision, 0))
        OR (%(epoch)s::bigint, g.revision) <= (COALESCE(t.kv_epoch, 0), COALESCE(t.kv_revision, 0)) THEN 'stale'
      WHEN g.key IN (SELECT o.key FROM bridge.outbox o WHERE o.target = 'AGENT_STATE') THEN 'waits'
      WHEN s.state_id IS NOT NULL AND NOT g.is_locked THEN 'waits'
      WHEN g.agent_epoch < r.epoch THEN 'fenced'
      ELSE 'good' END AS verdict
  FROM unnest(
    %(keys)s::text[], %(agent_ids)s::uuid[], %(state_keys)s::text[], %(values)s::text[], %(revisions)s::bigint[],
    %(are_own)s::bool[], %(agent_epochs)s::bigint[], %(expire_ats)s::timestamptz[], %(stored_ats)s::timestamptz[],
    %(are_locked)s::bool[]) WITH ORDINALITY
    AS g (key, agent_id, state_key, value, revision, is_own, agent_epoch, expires_at, stored_at, is_locked, place)
  LEFT JOIN agents.registry r ON r.agent_id = g.agent_id
  LEFT JOIN agents.state s ON s.agent_id = g.agent_id AND s.state_key = g.state_key
  LEFT JOIN bridge.tombstones t ON t.bucket = 'AGENT_STATE' AND t.key = g.key
), changed AS (
  UPDATE agents.state s
  SET state_value = j.value::jsonb, kv_epoch = %(epoch)s, kv_revision = j.revision,
      expires_at = CASE WHEN j.expires_at IS NOT NULL
                        THEN greatest(j.expires_at, s.created_at + interval '1 microsecond') END
  FROM judged j
  WHERE COALESCE(j.verdict = 'good', false) AND j.value IS NOT NULL AND j.state_id IS NOT NULL
    AND s.agent_id = j.agent_id AND s.state_key = j.state_key
  RETURNING s.kv_revision
), added AS (
  INSERT INTO agents.state (agent_id, state_key, state_value, kv_epoch, kv_revision, created_at, expires_at)
  SELECT j.agent_id, j.state_key, j.value::jsonb, %(epoch)s, j.revision, least(now(), j.stored_at), j.expires_at
  FROM judged j WHERE j.verdict = 'good' AND j.value IS NOT NULL AND j.state_id IS NULL
  ORDER BY j.agent_id, j.state_key
  ON CONFLICT (agent_id, state_key) DO NOTHING
  RETURNING kv_revision
), gone AS (
  DELETE FROM agents.state s USING judged j
  WHERE COALESCE(j.verdict = 'good', false) AND j.value IS NULL AND j.state_id IS NOT NULL
    AND s.agent_id = j.agent_id AND s.state_key = j.state_key
    AND (NOT j.is_own OR s.kv_revision > 0)  -- PostgreSQL's own delete: a row without a revision is a later one
), buried AS (
  INSERT INTO bridge.tombstones AS t (bucket, key, kv_epoch, kv_revision)
  SELECT 'AGENT_STATE', j.key, %(epoch)s, j.revision FROM judged j WHERE j.verdict = 'good' AND j.value IS NULL
  ORDER BY j.key
  ON CONFLICT (bucket, key) DO UPDATE
  SET kv_epoch = EXCLUDED.kv_epoch, kv_revision = EXCLUDED.kv_revision, deleted_at = now()
)
SELECT j.place - 1, CASE j.verdict WHEN 'good' THEN 'waits' ELSE j.verdict END AS verdict
FROM judged j
WHERE j.verdict <> 'good'
  OR (j.value IS NOT NULL  -- a bucket gives each of its revisions to one write
      AND j.revision NOT IN (SELECT kv_revision FROM changed) AND j.revision NOT IN (SELECT kv_revision FROM added))

-- name: fence_agent_state
-- A write of an older epoch: its position is settled, the write is kept as a conflict, and KV gets back what PostgreSQL
-- has, unless somebody wrote since.
WITH given AS MATERIALIZED (
  SELECT * FROM unnest(
    %(keys)s::text[], %(agent_ids)s::uuid[], %(state_keys)s::text[], %(values)s::text[], %(revisions)s::bigint[])
  AS g (key, agent_id, state_key, value, revision)
), before AS MATERIALIZED (
  SELECT g.*, s.state_id, s.state_value, CASE WHEN s.kv_epoch = %(epoch)s THEN s.kv_revision ELSE 0 END AS base
  FROM given g LEFT JOIN agents.state s ON s.agent_id = g.agent_id AND s.state_key = g.state_key
), settled AS (
  UPDATE agents.state s SET kv_epoch = %(epoch)s, kv_revision = b.revision
  FROM before b WHERE s.agent_id = b.agent_id AND s.state_key = b.state_key
), buried AS (
  INSERT INTO bridge.tombstones AS t (bucket, key, kv_epoch, kv_revision)
  SELECT 'AGENT_STATE', b.key, %(epoch)s, b.revision FROM before b WHERE b.state_id IS NULL ORDER BY b.key
  ON CONFLICT (bucket, key) DO UPDATE
  SET kv_epoch = EXCLUDED.kv_epoch, kv_revision = EXCLUDED.kv_revision, deleted_at = now()
), noted AS (
  INSERT INTO bridge.conflict (target, key, strategy, winner, base_revision, kv_revision, kv_value, pg_value)
  SELECT 'AGENT_STATE', b.key, 'fenced', 'postgresql', COALESCE(b.base, 0), b.revision, b.value, b.state_value FROM before b
)
INSERT INTO bridge.outbox (target, key, op, base_revision, payload, strategy)
SELECT 'AGENT_STATE', b.key, CASE WHEN b.state_id IS NULL THEN 'D'::"char" ELSE 'U' END, b.revision, b.state_value, 'reject'
FROM before b

-- name: settle_agent_state
-- The relay lets PostgreSQL win over a revision that the flusher has not applied: it must not be applied later.
WITH given AS MATERIALIZED (
  SELECT g.*, c.kv_epoch FROM bridge.sources c, unnest(
    %(keys)s::text[], %(agent_ids)s::uuid[], %(state_keys)s::text[], %(revisions)s::bigint[])
  AS g (key, agent_id, state_key, revision) WHERE c.bucket = 'AGENT_STATE'
), locked AS MATERIALIZED (
  SELECT s.agent_id, s.state_key FROM agents.state s
  JOIN given g ON g.agent_id = s.agent_id AND g.state_key = s.state_key
  ORDER BY s.agent_id, s.state_key FOR NO KEY UPDATE OF s
), settled AS (
  UPDATE agents.state s SET kv_epoch = g.kv_epoch, kv_revision = g.revision
  FROM given g JOIN locked l ON l.agent_id = g.agent_id AND l.state_key = g.state_key
  WHERE s.agent_id = g.agent_id AND s.state_key = g.state_key AND (s.kv_epoch, s.kv_revision) < (g.kv_epoch, g.revision)
)
INSERT INTO bridge.tombstones AS t (bucket, key, kv_epoch, kv_revision)
SELECT 'AGENT_STATE', g.key, g.kv_epoch, g.revision FROM given g
WHERE NOT EXISTS (SELECT FROM locked l WHERE l.agent_id = g.agent_id AND l.state_key = g.state_key)
ORDER BY g.key
ON CONFLICT (bucket, key) DO UPDATE
SET kv_epoch = EXCLUDED.kv_epoch, kv_revision = EXCLUDED.kv_revision, deleted_at = now()
WHERE (t.kv_epoch, t.kv_revision) < (EXCLUDED.kv_epoch, EXCLUDED.kv_revision)

-- name: lock_session_data
SELECT g.place - 1 FROM sessions.active s
JOIN unnest(%(session_ids)s::uuid[]) WITH ORDINALITY AS g (session_id, place) USING (session_id)
ORDER BY s.session_id FOR NO KEY UPDATE OF s

-- name: flush_session_data
-- As flush_agent_state. Agents write the data of open sessions; a deleted key leaves the session without data.
WITH judged AS MATERIALIZED (
  SELECT g.*, CASE
      WHEN s.session_id IS NULL AND g.value IS NOT NULL THEN 'unknown'
      WHEN s.session_id IS NULL OR g.is_own
        OR (%(epoch)s::bigint, g.revision) <= (s.kv_epoch, s.kv_revision) THEN 'stale'
      WHEN g.key IN (SELECT o.key FROM bridge.outbox o WHERE o.target = 'SESSION_DATA') THEN 'waits'
      WHEN NOT g.is_locked THEN 'waits'
      WHEN g.agent_epoch < (SELECT r.epoch FROM agents.registry r WHERE r.agent_id = s.agent_id) THEN 'fenced'
      ELSE 'good' END AS verdict
  FROM unnest(
    %(keys)s::text[], %(session_ids)s::uuid[], %(values)s::text[], %(revisions)s::bigint[], %(are_own)s::bool[],
    %(agent_epochs)s::bigint[], %(are_locked)s::bool[]) WITH ORDINALITY
    AS g (key, session_id, value, revision, is_own, agent_epoch, is_locked, place)
  LEFT JOIN sessions.active s ON s.session_id = g.session_id
), put AS (
  UPDATE sessions.active s
  SET session_data = COALESCE(j.value, '{}')::jsonb, kv_epoch = %(epoch)s, kv_revision = j.revision
  FROM judged j WHERE COALESCE(j.verdict = 'good', false) AND s.session_id = j.session_id
)
SELECT j.place - 1, j.verdict FROM judged j WHERE j.verdict <> 'good'

-- name: fence_session_data
WITH given AS MATERIALIZED (
  SELECT * FROM unnest(%(keys)s::text[], %(session_ids)s::uuid[], %(values)s::text[], %(revisions)s::bigint[])
  AS g (key, session_id, value, revision)
), before AS MATERIALIZED (
  SELECT g.*, s.session_data, CASE WHEN s.kv_epoch = %(epoch)s THEN s.kv_revision ELSE 0 END AS base
  FROM given g JOIN sessions.active s ON s.session_id = g.session_id
), settled AS (
  UPDATE sessions.active s SET kv_epoch = %(epoch)s, kv_revision = b.revision
  FROM before b WHERE s.session_id = b.session_id
), noted AS (
  INSERT INTO bridge.conflict (target, key, strategy, winner, base_revision, kv_revision, kv_value, pg_value)
  SELECT 'SESSION_DATA', b.key, 'fenced', 'postgresql', b.base, b.revision, b.value, b.session_data FROM before b
)
INSERT INTO bridge.outbox (target, key, op, base_revision, payload, strategy)
SELECT 'SESSION_DATA', b.key, 'U', b.revision, b.session_data, 'reject' FROM before b

-- name: end_session_data
-- Data for a session that is not there (any more): KV forgets it, unless somebody writes again meanwhile.
INSERT INTO bridge.outbox (target, key, op, base_revision)
SELECT 'SESSION_DATA', g.key, 'D', g.revision FROM unnest(%(keys)s::text[], %(revisions)s::bigint[]) AS g (key, revision)
ORDER BY g.key

-- name: settle_session_data
-- An ended session needs no position: nothing of it is applied.
UPDATE sessions.active s SET kv_epoch = c.kv_epoch, kv_revision = g.revision
FROM bridge.sources c, unnest(%(session_ids)s::uuid[], %(revisions)s::bigint[]) AS g (session_id, revision)
WHERE c.bucket = 'SESSION_DATA' AND s.session_id = g.session_id
  AND (s.kv_epoch, s.kv_revision) < (c.kv_epoch, g.revision)

-- name: note_progress
-- Progress that an agent told, unless later progress is there; `sequence` is its place in the stream. What the task's
-- handler said itself has none, and stays: the two have no common clock, and the handler knows better.
WITH task AS (
  SELECT i.task_type FROM tasks.identity i WHERE i.task_id = %(task_id)s
), noted AS (
  UPDATE tasks.queue q SET progress = %(progress)s::jsonb
  FROM task t WHERE q.task_id = %(task_id)s AND q.task_type = t.task_type
    AND q.worker = %(agent_id)s AND q.status = 'running'
    AND (q.progress IS NULL OR (q.progress ->> 'sequence')::bigint < %(sequence)s)
  RETURNING 1
)
SELECT EXISTS (SELECT FROM task) AS is_known, EXISTS (SELECT FROM noted) AS is_noted
