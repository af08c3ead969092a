-- Guide 9.2 agents.registry. Additions: liveness (whether heartbeats arrive; apart from the status, which says what the
-- agent is meant to do) and epoch (raised when an agent is rolled back or taken over, so that a zombie's writes can be
-- refused). Heartbeats themselves live in agents.heartbeats: batches of them must not churn the row that foreign keys
-- lock.
CREATE TABLE agents.registry (
  agent_id agent_id_type PRIMARY KEY DEFAULT partitions.uuid7(),
  agent_type varchar(50) NOT NULL,
  agent_name varchar(255) NOT NULL,
  status agent_status_type NOT NULL DEFAULT 'initializing',
  capabilities jsonb NOT NULL DEFAULT '{}',
  configuration jsonb NOT NULL DEFAULT '{}',
  metadata jsonb NOT NULL DEFAULT default_agent_metadata(),
  parent_agent_id agent_id_type REFERENCES agents.registry ON DELETE SET NULL,
  liveness varchar(10) NOT NULL DEFAULT 'unknown',
  epoch bigint NOT NULL DEFAULT 1,
  created_at timestamptz NOT NULL DEFAULT now(),
  updated_at timestamptz NOT NULL DEFAULT now(),
  last_heartbeat timestamptz,
  CONSTRAINT valid_agent_name CHECK (length(agent_name) > 0),
  CONSTRAINT valid_agent_type CHECK (length(agent_type) > 0),
  CONSTRAINT valid_metadata CHECK (validate_agent_metadata(metadata)),
  CONSTRAINT valid_liveness CHECK (liveness IN ('unknown', 'alive', 'suspect', 'lost')),
  CONSTRAINT valid_epoch CHECK (epoch > 0),
  CONSTRAINT no_self_parent CHECK (agent_id <> parent_agent_id)
);
CREATE TRIGGER touch BEFORE UPDATE ON agents.registry
  FOR EACH ROW WHEN (OLD.* IS DISTINCT FROM NEW.*) EXECUTE FUNCTION touch_updated_at();

CREATE INDEX idx_agents_registry_type_status ON agents.registry (agent_type, status);
CREATE INDEX idx_agents_registry_parent ON agents.registry (parent_agent_id) WHERE parent_agent_id IS NOT NULL;
CREATE INDEX idx_agents_registry_heartbeat ON agents.registry (last_heartbeat) WHERE status = 'active';
CREATE INDEX idx_agents_registry_metadata_gin ON agents.registry USING gin (metadata jsonb_path_ops);
CREATE INDEX idx_agents_registry_capabilities_gin ON agents.registry USING gin (capabilities jsonb_path_ops);
