-- Guide 9.2 agents.checkpoints. kv_revision is the bucket's last sequence when the snapshot was taken; the revisions of
-- the single keys are inside the snapshot.
CREATE TABLE agents.checkpoints (
  checkpoint_id uuid PRIMARY KEY DEFAULT partitions.uuid7(),
  agent_id agent_id_type NOT NULL REFERENCES agents.registry ON DELETE CASCADE,
  checkpoint_name varchar(255),
  state_snapshot jsonb NOT NULL,
  kv_revision bigint,
  trigger_event varchar(100),
  created_at timestamptz NOT NULL DEFAULT now(),
  CONSTRAINT valid_checkpoint_name CHECK (length(checkpoint_name) > 0),
  CONSTRAINT valid_kv_revision CHECK (kv_revision >= 0)
);
CREATE INDEX idx_agents_checkpoints_agent_created ON agents.checkpoints (agent_id, created_at);
CREATE INDEX idx_agents_checkpoints_name ON agents.checkpoints (checkpoint_name) WHERE checkpoint_name IS NOT NULL;
