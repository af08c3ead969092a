-- Guide 9.2 agents.lifecycle_events, partitioned by the id itself: PRIMARY KEY (event_id) stays as the guide has it.
CREATE TABLE agents.lifecycle_events (
  event_id uuid PRIMARY KEY DEFAULT partitions.uuid7(),
  agent_id agent_id_type NOT NULL REFERENCES agents.registry ON DELETE CASCADE,
  event_type varchar(50) NOT NULL,
  previous_status agent_status_type,
  new_status agent_status_type,
  event_data jsonb NOT NULL DEFAULT '{}',
  triggered_by agent_id_type REFERENCES agents.registry ON DELETE SET NULL,
  created_at timestamptz GENERATED ALWAYS AS (partitions.uuid7_time(event_id)) STORED,
  CONSTRAINT valid_event_type CHECK (length(event_type) > 0),
  CONSTRAINT status_change CHECK (
    (previous_status IS NULL AND new_status IS NULL) OR previous_status IS DISTINCT FROM new_status)
) PARTITION BY RANGE (event_id);
CREATE INDEX idx_agents_lifecycle_agent ON agents.lifecycle_events (agent_id, event_id);
CREATE INDEX idx_agents_lifecycle_event_type ON agents.lifecycle_events (event_type, event_id);
CREATE INDEX idx_agents_lifecycle_triggered_by ON agents.lifecycle_events (triggered_by)
  WHERE triggered_by IS NOT NULL;
