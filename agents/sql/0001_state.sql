-- Guide 9.2 agents.state. state_id is what the admin calls a row by (it refuses composite keys). kv_epoch and
-- kv_revision say which revision of the JetStream bucket the row came from; an older one never wins. No index on
-- updated_at, none over state_value: either would make every write non-HOT, and a covering index caps a value at 2.7 kB.
CREATE TABLE agents.state (
  state_id uuid NOT NULL DEFAULT partitions.uuid7(),
  agent_id agent_id_type NOT NULL REFERENCES agents.registry ON DELETE CASCADE,
  state_key varchar(255) NOT NULL,
  state_value jsonb NOT NULL,
  version bigint NOT NULL DEFAULT 1,
  checksum varchar(64) GENERATED ALWAYS AS (text_sha256(state_value::text)) STORED,
  kv_epoch bigint NOT NULL DEFAULT 0,
  kv_revision bigint NOT NULL DEFAULT 0,
  created_at timestamptz NOT NULL DEFAULT now(),
  updated_at timestamptz NOT NULL DEFAULT now(),
  expires_at timestamptz,
  PRIMARY KEY (agent_id, state_key),
  CONSTRAINT valid_state_key CHECK (length(state_key) > 0),
  CONSTRAINT valid_version CHECK (version > 0),
  CONSTRAINT valid_kv_position CHECK (kv_epoch >= 0 AND kv_revision >= 0),
  CONSTRAINT future_expiry CHECK (expires_at > created_at)
) PARTITION BY HASH (agent_id);

CREATE INDEX idx_agents_state_id ON agents.state (state_id);
CREATE INDEX idx_agents_state_expires ON agents.state (expires_at) WHERE expires_at IS NOT NULL;

CREATE FUNCTION agents.bump_state() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  NEW.version := OLD.version + 1;
  NEW.updated_at := now();
  RETURN NEW;
END $$;
CREATE TRIGGER bump BEFORE UPDATE ON agents.state
  FOR EACH ROW WHEN (OLD.state_value IS DISTINCT FROM NEW.state_value OR OLD.expires_at IS DISTINCT FROM NEW.expires_at)
  EXECUTE FUNCTION agents.bump_state();
