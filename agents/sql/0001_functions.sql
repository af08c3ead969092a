-- Guide 2.2, as corrected: an agent's live state, to be loaded into JetStream KV in one batch.
CREATE FUNCTION agents.hydrate_agent_state(p_agent_id uuid)
RETURNS TABLE (key text, value jsonb, version bigint, checksum text, expires_at timestamptz)
LANGUAGE sql STABLE AS $$
  SELECT s.state_key::text, s.state_value, s.version, s.checksum::text, s.expires_at
  FROM agents.state s
  WHERE s.agent_id = p_agent_id AND (s.expires_at IS NULL OR s.expires_at > now())
  ORDER BY s.updated_at DESC
$$;

-- Statement triggers: one row of history per changed key, only for agent types whose switch is on.
CREATE FUNCTION agents.write_state_history() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF NOT EXISTS (SELECT FROM agents.type_settings t WHERE t.keep_state_history) THEN
    RETURN NULL;
  END IF;
  IF TG_OP = 'DELETE' THEN
    INSERT INTO agents.state_history (agent_id, state_key, state_value, version, kv_revision)
    SELECT o.agent_id, o.state_key, NULL, o.version + 1, o.kv_revision FROM old_rows o
    JOIN agents.registry r ON r.agent_id = o.agent_id
    JOIN agents.type_settings t ON t.agent_type = r.agent_type AND t.keep_state_history;
  ELSE
    INSERT INTO agents.state_history (agent_id, state_key, state_value, version, kv_revision)
    SELECT n.agent_id, n.state_key, n.state_value, n.version, n.kv_revision FROM new_rows n
    JOIN agents.registry r ON r.agent_id = n.agent_id
    JOIN agents.type_settings t ON t.agent_type = r.agent_type AND t.keep_state_history;
  END IF;
  RETURN NULL;
END $$;
CREATE TRIGGER history_of_insert AFTER INSERT ON agents.state REFERENCING NEW TABLE AS new_rows
  FOR EACH STATEMENT EXECUTE FUNCTION agents.write_state_history();
CREATE TRIGGER history_of_update AFTER UPDATE ON agents.state REFERENCING NEW TABLE AS new_rows
  FOR EACH STATEMENT EXECUTE FUNCTION agents.write_state_history();
CREATE TRIGGER history_of_delete AFTER DELETE ON agents.state REFERENCING OLD TABLE AS old_rows
  FOR EACH STATEMENT EXECUTE FUNCTION agents.write_state_history();

INSERT INTO partitions.policies (table_name, make_ahead_days, keep_days, on_expiry) VALUES
  ('agents.lifecycle_events', 14, 30, 'archive'),
  ('agents.state_history', 14, 7, 'drop');
SELECT partitions.create_time_partition(t, (now() AT TIME ZONE 'UTC')::date + n)
FROM unnest(ARRAY['agents.lifecycle_events', 'agents.state_history']) t, generate_series(-1, 14) n;
