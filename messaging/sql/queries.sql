-- Runtime queries of the messaging room. $limit is a literal, so that the planner knows how little is wanted; ids and
-- bounds of ids come as literals too, so that it leaves out partitions before it plans them (with 45 partitions of two
-- tables a plan over all of them takes 70 ms). The time is statement_timestamp(): what was sent earlier in the same
-- transaction is due.

-- name: send
-- The message, and a delivery for each recipient as they are now. Nothing where a part of the route is not there.
WITH given AS MATERIALIZED (
  SELECT COALESCE(%(message_id)s::uuid, partitions.uuid7()) AS message_id, %(from_agent)s::uuid AS from_agent_id, %(to_agent)s::uuid AS to_agent_id,
         %(broadcast_to_type)s::text AS broadcast_to_type, %(channel)s::text AS channel_name,
         %(message_type)s::message_type AS message_type, %(subject)s::text AS subject, %(payload)s::jsonb AS payload,
         %(headers)s::jsonb AS headers, %(correlation_id)s::uuid AS correlation_id, %(reply_to)s::text AS reply_to,
         %(priority)s::int AS priority, %(expires_at)s::timestamptz AS expires_at,
         make_interval(days => %(open_days)s) AS open_for
), routed AS MATERIALIZED (
  SELECT g.*, partitions.uuid7_time(g.message_id) AS sent_at, c.channel_id, c.channel_type
  FROM given g
  LEFT JOIN messages.channels c ON c.channel_name = g.channel_name AND c.is_active
  WHERE (g.from_agent_id IS NULL OR EXISTS (SELECT FROM agents.registry r WHERE r.agent_id = g.from_agent_id))
    AND (g.to_agent_id IS NULL OR EXISTS (
      SELECT FROM agents.registry r WHERE r.agent_id = g.to_agent_id AND r.status <> 'terminated'))
    AND (g.channel_name IS NULL OR c.channel_id IS NOT NULL)
    AND (c.channel_type IS DISTINCT FROM 'topic' OR g.subject IS NOT NULL)
    AND (c.channel_type IS DISTINCT FROM 'direct' OR EXISTS (
      SELECT FROM messages.subscriptions s WHERE s.channel_id = c.channel_id AND s.is_active))
    AND (g.expires_at IS NULL OR g.expires_at > statement_timestamp()
                              AND g.expires_at <= statement_timestamp() + g.open_for)
), recipients AS (
  SELECT t.to_agent_id AS agent_id, NULL::uuid AS queue_id FROM routed t WHERE t.to_agent_id IS NOT NULL
  UNION ALL
  SELECT r.agent_id, NULL FROM routed t
  JOIN agents.registry r ON r.agent_type = t.broadcast_to_type AND r.status <> 'terminated'
  UNION ALL
  SELECT DISTINCT s.agent_id::uuid, NULL::uuid FROM routed t
  JOIN messages.subscriptions s ON s.channel_id = t.channel_id AND s.is_active
  JOIN agents.registry r ON r.agent_id = s.agent_id AND r.status <> 'terminated'
  WHERE t.channel_type <> 'queue'
    AND messages.subscription_matches(s.message_pattern, s.filters, t.subject, t.payload)
  UNION ALL
  SELECT NULL, t.channel_id FROM routed t WHERE t.channel_type = 'queue'
), logged AS (
  INSERT INTO messages.log (
    message_id, channel_id, from_agent_id, to_agent_id, broadcast_to_type, message_type, subject, payload, headers,
    correlation_id, reply_to, sent_at, priority, expires_at)
  SELECT message_id, channel_id, from_agent_id, to_agent_id, broadcast_to_type, message_type, subject, payload, headers,
         COALESCE(correlation_id, CASE WHEN message_type = 'query' THEN message_id END), reply_to, sent_at, priority,
         expires_at
  FROM routed
  ON CONFLICT (message_id) DO NOTHING  -- a message that came from JetStream may come twice
  RETURNING message_id, correlation_id
), delivered AS (
  INSERT INTO messages.deliveries (message_id, agent_id, queue_id, priority, next_at, expires_at)
  SELECT t.message_id, r.agent_id, r.queue_id, t.priority, statement_timestamp(),
         COALESCE(t.expires_at, t.sent_at + t.open_for)
  FROM routed t JOIN logged l ON l.message_id = t.message_id CROSS JOIN recipients r
  RETURNING 1
)
SELECT l.message_id::uuid, l.correlation_id, (SELECT count(*) FROM delivered) AS recipients FROM logged l

-- name: look_at_route
SELECT
  EXISTS (SELECT FROM agents.registry r WHERE r.agent_id = %(from_agent)s::uuid) AS sender_is_known,
  (SELECT r.status::text FROM agents.registry r WHERE r.agent_id = %(to_agent)s::uuid) AS target_status,
  c.channel_type, c.is_active AS channel_is_active,
  EXISTS (SELECT FROM messages.subscriptions s WHERE s.channel_id = c.channel_id AND s.is_active) AS has_subscribers,
  (%(expires_at)s::timestamptz IS NULL OR %(expires_at)s::timestamptz > statement_timestamp()
    AND %(expires_at)s::timestamptz <= statement_timestamp() + make_interval(days => %(open_days)s)) AS expiry_is_valid
FROM (SELECT 1) one LEFT JOIN messages.channels c ON c.channel_name = %(channel)s::text

-- name: lease
-- Each branch locks its own best rows, so that takers beside each other never wait; what is locked and not chosen in the
-- end is free again when the transaction ends.
WITH own AS (
  SELECT d.delivery_id, d.priority FROM messages.deliveries d
  WHERE d.agent_id = %(agent_id)s AND d.queue_id IS NULL
    AND d.next_at <= statement_timestamp() AND d.expires_at > statement_timestamp() AND d.attempts < %(max_attempts)s
    AND d.delivery_id >= %(since)s AND d.delivery_id < %(until)s
  ORDER BY d.priority DESC, d.delivery_id LIMIT $limit FOR NO KEY UPDATE SKIP LOCKED
), queues AS (
  SELECT s.channel_id, bool_or(s.message_pattern IS NULL AND s.filters = '{}') AS takes_all,
         array_agg(s.message_pattern) AS patterns, array_agg(s.filters) AS filters
  FROM messages.subscriptions s JOIN messages.channels c ON c.channel_id = s.channel_id AND c.channel_type = 'queue'
  WHERE s.agent_id = %(agent_id)s AND s.is_active
  GROUP BY s.channel_id
), shared AS (
  SELECT x.delivery_id, x.priority FROM queues q
  CROSS JOIN LATERAL (
    SELECT d.delivery_id, d.priority FROM messages.deliveries d
    WHERE d.queue_id = q.channel_id
      AND d.next_at <= statement_timestamp() AND d.expires_at > statement_timestamp() AND d.attempts < %(max_attempts)s
      AND d.delivery_id >= %(since)s AND d.delivery_id < %(until)s
      AND (q.takes_all OR messages.any_subscription_matches(d.message_id, q.patterns, q.filters))
    ORDER BY d.priority DESC, d.delivery_id LIMIT $limit FOR NO KEY UPDATE SKIP LOCKED) x
)
UPDATE messages.deliveries d SET
  state = 'delivered',
  agent_id = %(agent_id)s,
  attempts = d.attempts + 1,
  next_at = statement_timestamp() + make_interval(secs => %(lease_seconds)s),
  delivered_at = COALESCE(d.delivered_at, statement_timestamp())
WHERE d.delivery_id = ANY(ARRAY(
    SELECT b.delivery_id FROM (SELECT * FROM own UNION ALL SELECT * FROM shared) b
    ORDER BY b.priority DESC, b.delivery_id LIMIT $limit))
  AND d.delivery_id >= %(since)s AND d.delivery_id < %(until)s
RETURNING d.delivery_id, d.message_id::uuid, d.attempts AS attempt, d.next_at AS lease_until, d.delivered_at, d.expires_at

-- name: collect
-- The messages of a lease. The first recipient's time goes to the message; a row that somebody else is marking is left.
-- Values are found by the place of their id, not by a join: docs/decisions/0024.
WITH fresh AS (
  SELECT m.message_id FROM messages.log m
  WHERE m.message_id = ANY(%(message_ids)s::uuid[]) AND (
    m.delivered_at IS NULL
    OR m.delivery_attempts < (%(attempts)s::int[])[array_position(%(message_ids)s::uuid[], m.message_id::uuid)])
  FOR NO KEY UPDATE SKIP LOCKED
), noted AS (
  UPDATE messages.log m SET
    delivered_at = COALESCE(m.delivered_at,
      (%(delivered_ats)s::timestamptz[])[array_position(%(message_ids)s::uuid[], m.message_id::uuid)]),
    delivery_attempts = greatest(m.delivery_attempts,
      (%(attempts)s::int[])[array_position(%(message_ids)s::uuid[], m.message_id::uuid)])
  WHERE m.message_id = ANY(%(message_ids)s::uuid[]) AND m.message_id = ANY(ARRAY(SELECT f.message_id FROM fresh f))
)
SELECT m.message_id::uuid, m.message_type::text AS message_type, m.from_agent_id::uuid, m.channel_id, m.subject,
       m.payload::text AS payload, m.headers::text AS headers, m.correlation_id, m.reply_to, m.priority, m.sent_at
FROM messages.log m
WHERE m.message_id = ANY(%(message_ids)s::uuid[])

-- name: acknowledge
WITH done AS (
  UPDATE messages.deliveries d SET
    state = 'processed', processed_at = statement_timestamp(), next_at = NULL, error = NULL
  WHERE d.delivery_id = ANY(%(delivery_ids)s::uuid[]) AND d.state = 'delivered'
    AND (d.delivery_id, d.agent_id, d.attempts) IN (
      SELECT * FROM unnest(%(delivery_ids)s::uuid[], %(agent_ids)s::uuid[], %(attempts)s::int[]))
  RETURNING d.delivery_id, d.message_id, d.delivered_at, d.processed_at
), fresh AS (
  SELECT m.message_id FROM messages.log m
  WHERE m.message_id = ANY(%(message_ids)s::uuid[]) AND m.processed_at IS NULL
  FOR NO KEY UPDATE SKIP LOCKED
), noted AS (
  UPDATE messages.log m SET
    delivered_at = COALESCE(m.delivered_at, (SELECT min(d.delivered_at) FROM done d WHERE d.message_id = m.message_id)),
    processed_at = statement_timestamp()
  WHERE m.message_id = ANY(%(message_ids)s::uuid[]) AND m.message_id = ANY(ARRAY(
    SELECT f.message_id FROM fresh f JOIN done d ON d.message_id = f.message_id))
)
SELECT delivery_id FROM done

-- name: reject
-- A queue's delivery goes back to all its subscribers.
WITH judged AS (
  SELECT d.delivery_id, %(may_retry)s AND d.attempts < %(max_attempts)s AS comes_again FROM messages.deliveries d
  WHERE d.delivery_id = %(delivery_id)s AND d.agent_id = %(agent_id)s AND d.attempts = %(attempt)s
    AND d.state = 'delivered'
  FOR NO KEY UPDATE
)
UPDATE messages.deliveries d SET
  state = CASE WHEN j.comes_again THEN 'pending' ELSE 'failed' END,
  next_at = CASE WHEN j.comes_again THEN statement_timestamp() + make_interval(secs => %(delay_seconds)s) END,
  agent_id = CASE WHEN j.comes_again AND d.queue_id IS NOT NULL THEN NULL ELSE d.agent_id END,
  error = %(error)s
FROM judged j WHERE d.delivery_id = %(delivery_id)s AND d.delivery_id = j.delivery_id
RETURNING d.state

-- name: expire
-- A leased one has until its lease ends.
UPDATE messages.deliveries d SET state = 'expired', next_at = NULL
WHERE d.delivery_id = ANY(ARRAY(
  SELECT x.delivery_id FROM messages.deliveries x
  WHERE x.next_at IS NOT NULL AND x.expires_at <= statement_timestamp()
    AND (x.state = 'pending' OR x.next_at <= statement_timestamp())
  ORDER BY x.expires_at LIMIT $limit FOR NO KEY UPDATE SKIP LOCKED))
RETURNING d.delivery_id

-- name: bury
UPDATE messages.deliveries d SET
  state = 'failed', next_at = NULL,
  error = COALESCE(d.error || '; then ', '') || format('not acknowledged by the end of lease %%s', d.attempts)
WHERE d.delivery_id = ANY(ARRAY(
  SELECT x.delivery_id FROM messages.deliveries x
  WHERE x.next_at <= statement_timestamp() AND x.state = 'delivered' AND x.attempts >= %(max_attempts)s
  ORDER BY x.next_at LIMIT $limit FOR NO KEY UPDATE SKIP LOCKED))
RETURNING d.delivery_id

-- name: dead
SELECT d.delivery_id FROM messages.deliveries d
WHERE d.state = 'failed' AND (%(agent_id)s::uuid IS NULL OR d.agent_id = %(agent_id)s::uuid)
ORDER BY d.created_at, d.delivery_id LIMIT $limit

-- name: redrive
-- A new id moves a delivery into today's partition, where `take` looks.
UPDATE messages.deliveries d SET
  delivery_id = partitions.uuid7(), state = 'pending', attempts = 0, next_at = statement_timestamp(), delivered_at = NULL,
  agent_id = CASE WHEN d.queue_id IS NULL THEN d.agent_id END,
  expires_at = CASE WHEN d.expires_at > statement_timestamp() THEN d.expires_at
                    ELSE statement_timestamp() + interval '7 days' END
WHERE d.delivery_id = ANY(%(delivery_ids)s::uuid[]) AND d.state = 'failed'
  AND EXISTS (SELECT FROM messages.log m WHERE m.message_id = d.message_id)
RETURNING d.delivery_id

-- name: dead_and_overdue
-- Counted up to $limit: what died, and what has been due for longer than the grace.
SELECT
  (SELECT count(*) FROM (SELECT FROM messages.deliveries d WHERE d.state = 'failed' LIMIT $limit) x) AS dead,
  (SELECT count(*) FROM (
    SELECT FROM messages.deliveries d
    WHERE d.next_at < statement_timestamp() - make_interval(secs => %(grace_seconds)s) LIMIT $limit) x) AS overdue,
  (SELECT count(*) FROM (SELECT FROM messages.deliveries d WHERE d.next_at IS NOT NULL LIMIT $limit) x) AS open

-- name: tail
-- Newest first, between two ids: partitions outside are not read.
SELECT m.message_id::uuid, m.sent_at, m.message_type::text AS message_type, m.from_agent_id::uuid, f.agent_name AS "from",
       m.to_agent_id::uuid, COALESCE(t.agent_name, m.broadcast_to_type) AS "to", c.channel_name AS channel, m.subject,
       m.priority, m.correlation_id, m.delivered_at, m.processed_at, m.payload::text AS payload
FROM messages.log m
LEFT JOIN agents.registry f ON f.agent_id = m.from_agent_id
LEFT JOIN agents.registry t ON t.agent_id = m.to_agent_id
LEFT JOIN messages.channels c ON c.channel_id = m.channel_id
WHERE m.message_id >= %(since)s AND m.message_id < %(until)s
  AND (%(agent_id)s::uuid IS NULL OR m.from_agent_id = %(agent_id)s OR m.to_agent_id = %(agent_id)s)
  AND (%(channel_id)s::uuid IS NULL OR m.channel_id = %(channel_id)s)
  AND (%(message_type)s::text IS NULL OR m.message_type = %(message_type)s::message_type)
ORDER BY m.message_id DESC LIMIT $limit

-- name: inbox
SELECT d.delivery_id, d.state, d.attempts, d.next_at, d.expires_at, d.message_id::uuid, m.sent_at,
       m.message_type::text AS message_type, f.agent_name AS "from", c.channel_name AS channel, m.subject, m.priority,
       m.payload::text AS payload
FROM messages.deliveries d
JOIN messages.log m ON m.message_id = d.message_id
LEFT JOIN agents.registry f ON f.agent_id = m.from_agent_id
LEFT JOIN messages.channels c ON c.channel_id = m.channel_id
WHERE d.agent_id = %(agent_id)s AND d.next_at IS NOT NULL
  AND d.delivery_id >= %(since)s AND d.delivery_id < %(until)s
ORDER BY d.priority DESC, d.delivery_id LIMIT $limit
