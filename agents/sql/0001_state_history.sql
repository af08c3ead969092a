-- What agents.state held before, for agent types whose switch is on (agents.type_settings). Daily, kept 7 days.
CREATE TABLE agents.state_history (
  history_id uuid PRIMARY KEY DEFAULT partitions.uuid7(),
  agent_id agent_id_type NOT NULL,
  state_key varchar(255) NOT NULL,
  state_value jsonb,
  version bigint NOT NULL,
  kv_revision bigint NOT NULL,
  changed_at timestamptz GENERATED ALWAYS AS (partitions.uuid7_time(history_id)) STORED
) PARTITION BY RANGE (history_id);
COMMENT ON COLUMN agents.state_history.state_value IS 'the value from changed_at on; NULL: the key was deleted';
CREATE INDEX idx_agents_state_history_key ON agents.state_history (agent_id, state_key, history_id);
