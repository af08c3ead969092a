-- The state machine of agents: every move that is allowed. Terminated is final: an agent that comes back registers anew.
CREATE TABLE agents.status_transitions (
  previous_status agent_status_type NOT NULL,
  new_status agent_status_type NOT NULL,
  PRIMARY KEY (previous_status, new_status)
);
INSERT INTO agents.status_transitions VALUES
  ('initializing', 'active'), ('initializing', 'idle'), ('initializing', 'suspended'),
  ('initializing', 'error'), ('initializing', 'terminated'),
  ('active', 'idle'), ('active', 'suspended'), ('active', 'error'), ('active', 'terminated'),
  ('idle', 'active'), ('idle', 'suspended'), ('idle', 'error'), ('idle', 'terminated'),
  ('suspended', 'active'), ('suspended', 'idle'), ('suspended', 'error'), ('suspended', 'terminated'),
  ('error', 'initializing'), ('error', 'active'), ('error', 'idle'), ('error', 'suspended'), ('error', 'terminated');

-- Refuses a move that is not in the table, from any client.
CREATE FUNCTION agents.check_status_transition() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF NOT EXISTS (
    SELECT FROM agents.status_transitions t
    WHERE t.previous_status = OLD.status AND t.new_status = NEW.status
  ) THEN
    RAISE EXCEPTION 'agent % cannot go from % to %', OLD.agent_id, OLD.status, NEW.status
      USING ERRCODE = 'check_violation', CONSTRAINT = 'allowed_status_transition', SCHEMA = 'agents', TABLE = 'registry',
            HINT = 'allowed moves are in agents.status_transitions';
  END IF;
  RETURN NEW;
END $$;
CREATE TRIGGER check_status BEFORE UPDATE OF status ON agents.registry
  FOR EACH ROW WHEN (OLD.status IS DISTINCT FROM NEW.status) EXECUTE FUNCTION agents.check_status_transition();

-- Writes the event of a registration or a change of status in the same transaction. Who and why come from the
-- transaction-local settings agents.triggered_by (an agent's id) and agents.event_data (JSON); both may be unset.
CREATE FUNCTION agents.write_lifecycle_event() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  INSERT INTO agents.lifecycle_events (agent_id, event_type, previous_status, new_status, event_data, triggered_by)
  VALUES (
    NEW.agent_id,
    CASE TG_OP WHEN 'INSERT' THEN 'registered' ELSE NEW.status::text END,
    CASE TG_OP WHEN 'INSERT' THEN NULL ELSE OLD.status END,
    NEW.status,
    COALESCE(NULLIF(current_setting('agents.event_data', true), '')::jsonb, '{}'),
    NULLIF(current_setting('agents.triggered_by', true), '')::uuid);
  RETURN NULL;
END $$;
CREATE TRIGGER lifecycle_of_insert AFTER INSERT ON agents.registry
  FOR EACH ROW EXECUTE FUNCTION agents.write_lifecycle_event();
CREATE TRIGGER lifecycle_of_update AFTER UPDATE OF status ON agents.registry
  FOR EACH ROW WHEN (OLD.status IS DISTINCT FROM NEW.status) EXECUTE FUNCTION agents.write_lifecycle_event();
