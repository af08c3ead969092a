-- No query reads them; last_heartbeat changes each minute, and with an index on it each change wrote to all indexes.
DROP INDEX CONCURRENTLY IF EXISTS agents.idx_agents_registry_heartbeat;
DROP INDEX CONCURRENTLY IF EXISTS agents.idx_agents_registry_metadata_gin;
