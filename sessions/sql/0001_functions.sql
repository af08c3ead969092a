-- Sessions that count: what is not expired. Without the digest.
CREATE VIEW sessions.live AS
SELECT session_id, agent_id, user_id, session_type, session_data, preferences, ip_address, user_agent, permissions,
       created_at, last_activity, expires_at
FROM sessions.active
WHERE expires_at > now();

-- Open a session for a token of at least 32 characters and return its id. The length says nothing of randomness: mint
-- tokens from 32 random bytes. A token that already has a session is refused (unique_violation).
CREATE FUNCTION sessions.open_session(
  p_token text, p_ttl interval, p_agent uuid DEFAULT NULL, p_user text DEFAULT NULL,
  p_type text DEFAULT 'interactive'
) RETURNS uuid LANGUAGE plpgsql AS $$
DECLARE
  v_digest bytea := sha256(convert_to(p_token, 'UTF8'));
BEGIN
  IF p_token IS NULL OR length(p_token) < 32 THEN
    RAISE EXCEPTION 'session token must have at least 32 characters'
      USING ERRCODE = 'check_violation', CONSTRAINT = 'valid_session_token', SCHEMA = 'sessions', TABLE = 'active';
  END IF;
  INSERT INTO sessions.active (session_id, token_digest, agent_id, user_id, session_type, expires_at)
  VALUES (sessions.token_id(v_digest), v_digest, p_agent, p_user, p_type, now() + p_ttl);
  RETURN sessions.token_id(v_digest);
END $$;

-- The unexpired session of a token: no row or one; none where its agent is terminated. Reads one hash partition.
CREATE FUNCTION sessions.authenticate(p_token text) RETURNS SETOF sessions.active
LANGUAGE sql STABLE AS $$
  SELECT s.* FROM sessions.active s
  WHERE s.session_id = sessions.token_id(sha256(convert_to(p_token, 'UTF8')))
    AND s.token_digest = sha256(convert_to(p_token, 'UTF8'))
    AND s.expires_at > now()
    AND NOT EXISTS (SELECT FROM agents.registry r WHERE r.agent_id = s.agent_id AND r.status = 'terminated')
$$;

-- Delete up to p_batch expired sessions, the oldest first, and return how many. Two at once take different rows.
CREATE FUNCTION sessions.purge_expired(p_batch integer DEFAULT 1000) RETURNS integer
LANGUAGE sql AS $$
  WITH victims AS (
    SELECT session_id FROM sessions.active WHERE expires_at <= now()
    ORDER BY expires_at LIMIT p_batch FOR UPDATE SKIP LOCKED
  ), gone AS (
    DELETE FROM sessions.active a USING victims v WHERE a.session_id = v.session_id RETURNING 1
  )
  SELECT count(*)::int FROM gone
$$;
