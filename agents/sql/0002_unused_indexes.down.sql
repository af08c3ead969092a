CREATE INDEX CONCURRENTLY IF NOT EXISTS idx_agents_registry_heartbeat ON agents.registry (last_heartbeat)
  WHERE status = 'active';
CREATE INDEX CONCURRENTLY IF NOT EXISTS idx_agents_registry_metadata_gin ON agents.registry
  USING gin (metadata jsonb_path_ops);
