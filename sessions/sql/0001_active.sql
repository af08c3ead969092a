-- Guide 9.2 sessions.active. The token is never stored. The id is the first 122 bits of SHA-256(token) as a UUIDv8, so
-- a primary key of hash partitions also makes the token unique; the whole digest is kept and checked against the id.
-- No CHECK (expires_at > now()): it would refuse to touch or to restore an expired row; sessions.live tells instead.
CREATE FUNCTION sessions.token_id(digest bytea) RETURNS uuid
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE AS $$
  SELECT encode(
    set_byte(set_byte(substring(digest FROM 1 FOR 16),
      6, (get_byte(digest, 6) & 15) | 128),
      8, (get_byte(digest, 8) & 63) | 128), 'hex')::uuid
$$;

CREATE TABLE sessions.active (
  session_id uuid PRIMARY KEY,
  token_digest bytea NOT NULL,
  agent_id agent_id_type REFERENCES agents.registry ON DELETE CASCADE,
  user_id varchar(255),
  session_type varchar(50) NOT NULL DEFAULT 'interactive',
  session_data jsonb NOT NULL DEFAULT '{}',
  preferences jsonb NOT NULL DEFAULT '{}',
  ip_address inet,
  user_agent text,
  permissions jsonb NOT NULL DEFAULT '{}',
  created_at timestamptz NOT NULL DEFAULT now(),
  last_activity timestamptz NOT NULL DEFAULT now(),
  expires_at timestamptz NOT NULL,
  CONSTRAINT valid_token_digest CHECK (
    octet_length(token_digest) = 32 AND session_id = sessions.token_id(token_digest)),
  CONSTRAINT valid_session_type CHECK (session_type IN ('interactive', 'api', 'system', 'background')),
  CONSTRAINT future_expiry CHECK (expires_at > created_at)
) PARTITION BY HASH (session_id);

-- an agent's or a user's sessions; the first also serves the foreign key when an agent is deleted
CREATE INDEX idx_sessions_active_agent ON sessions.active (agent_id, expires_at) WHERE agent_id IS NOT NULL;
CREATE INDEX idx_sessions_active_user ON sessions.active (user_id, expires_at) WHERE user_id IS NOT NULL;
-- the purge
CREATE INDEX idx_sessions_active_expires ON sessions.active (expires_at);
