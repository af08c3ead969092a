-- Runtime queries of the sessions room. Tokens never reach PostgreSQL, only their digests: a statement's text ends up in
-- pg_stat_activity and, when it is slow or fails, in the server's log.

-- name: open
INSERT INTO sessions.active (
  session_id, token_digest, agent_id, user_id, session_type, permissions, session_data, ip_address, user_agent, expires_at)
VALUES (
  %(session_id)s, %(digest)s, %(agent_id)s, %(user_id)s, %(session_type)s, %(permissions)s::jsonb,
  %(session_data)s::jsonb, %(ip_address)s::inet, %(user_agent)s, now() + make_interval(secs => %(ttl_seconds)s))
RETURNING *

-- name: touch
-- Who waited for another's touch finds the time fresh and writes nothing. Sliding never shortens a session.
UPDATE sessions.active s SET
  last_activity = statement_timestamp(),
  expires_at = CASE WHEN %(slide_seconds)s::float8 IS NULL THEN s.expires_at ELSE greatest(s.expires_at, least(
    s.created_at + make_interval(secs => %(max_life_seconds)s),
    statement_timestamp() + make_interval(secs => %(slide_seconds)s))) END
WHERE s.session_id = %(session_id)s AND s.expires_at > statement_timestamp()
  AND s.last_activity <= statement_timestamp() - make_interval(secs => %(pause_seconds)s)
RETURNING s.last_activity, s.expires_at

-- name: rotate
-- The id is made of the token, so the row gets a new one: the old goes and the new comes in one statement.
WITH old AS (
  DELETE FROM sessions.active
  WHERE session_id = %(old_id)s AND expires_at > statement_timestamp()
  RETURNING *
)
INSERT INTO sessions.active (
  session_id, token_digest, agent_id, user_id, session_type, session_data, preferences, ip_address, user_agent,
  permissions, created_at, last_activity, expires_at)
SELECT %(session_id)s, %(digest)s, agent_id, user_id, session_type, session_data, preferences, ip_address, user_agent,
       permissions, created_at, statement_timestamp(),
       COALESCE(statement_timestamp() + make_interval(secs => %(ttl_seconds)s), expires_at)
FROM old
RETURNING *

-- name: count_expired
-- Up to $limit.
SELECT count(*) AS number, min(x.expires_at) AS oldest FROM (
  SELECT expires_at FROM sessions.active WHERE expires_at <= statement_timestamp() ORDER BY expires_at LIMIT $limit) x

-- name: count_live
-- Up to $limit.
SELECT count(*) AS number FROM (
  SELECT FROM sessions.active WHERE expires_at > statement_timestamp() LIMIT $limit) x
