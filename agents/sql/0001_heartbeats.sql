-- The newest heartbeat of each agent. Written in batches; no index but the key, room in each page: every update is HOT.
CREATE TABLE agents.heartbeats (
  agent_id agent_id_type PRIMARY KEY REFERENCES agents.registry ON DELETE CASCADE,
  last_heartbeat timestamptz NOT NULL,
  details jsonb NOT NULL DEFAULT '{}'
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.05);
