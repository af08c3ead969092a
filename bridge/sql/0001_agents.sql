-- AGENT_STATE: the value as it is, as JSON text. A write carries the KV revision that the row came from.
SELECT bridge.capture_table('agents.state', 'AGENT_STATE',
  'agent_id || ''.'' || bridge.encode_key(state_key)', 'state_value', 'state_value', 'kv_revision');
SELECT partitions.copy_statement_triggers(inhparent, inhrelid) FROM pg_inherits WHERE inhparent = 'agents.state'::regclass;

-- AGENT_CONFIG: heartbeats, liveness, status and epoch are not part of it, so they send nothing.
SELECT bridge.capture_table('agents.registry', 'AGENT_CONFIG', 'agent_id::text', c.config, c.config)
FROM (VALUES (
  'jsonb_build_object(''agent_id'', agent_id, ''agent_type'', agent_type, ''agent_name'', agent_name, '
  '''configuration'', configuration, ''capabilities'', capabilities)')) c (config);

-- agents.lifecycle.<agent_id>.<event_type> on the stream AGENT_STATE
CREATE FUNCTION bridge.capture_lifecycle_events() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  INSERT INTO bridge.outbox (target, key, op, payload)
  SELECT 'AGENT_STATE', 'agents.lifecycle.' || e.agent_id || '.' || bridge.encode_token(e.event_type), 'E',
         jsonb_build_object(
           'event_id', e.event_id, 'agent_id', e.agent_id, 'event_type', e.event_type,
           'previous_status', e.previous_status, 'new_status', e.new_status, 'event_data', e.event_data,
           'triggered_by', e.triggered_by, 'created_at', e.created_at)
  FROM new_rows e ORDER BY e.event_id;
  RETURN NULL;
END $$;
CREATE TRIGGER bridge_events AFTER INSERT ON agents.lifecycle_events REFERENCING NEW TABLE AS new_rows
  FOR EACH STATEMENT EXECUTE FUNCTION bridge.capture_lifecycle_events();
