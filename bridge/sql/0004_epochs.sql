-- The key <agent_id>.=epoch of AGENT_STATE holds the agent's newest epoch: writers that name theirs are refused by
-- nats-server once it moved. PostgreSQL owns it, so the row has no base revision. A row trigger, for take-overs are few.
CREATE FUNCTION bridge.capture_epoch() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  INSERT INTO bridge.outbox (target, key, op, payload)
  VALUES ('AGENT_STATE', NEW.agent_id || '.=epoch', 'U', jsonb_build_object('epoch', NEW.epoch));
  RETURN NULL;
END $$;
CREATE TRIGGER bridge_epoch AFTER UPDATE OF epoch ON agents.registry
  FOR EACH ROW WHEN (OLD.epoch IS DISTINCT FROM NEW.epoch) EXECUTE FUNCTION bridge.capture_epoch();
