-- agents.state has functions of its own, in static SQL: planning anew cost a single-row update more than all the rest of
-- it. Its plan may be kept, for a full join is a hash or merge join, never a nested loop over two transition tables; and
-- the key is made once per row, not twice.
CREATE FUNCTION bridge.capture_state_insert() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF bridge.is_echo() THEN
    RETURN NULL;
  END IF;
  INSERT INTO bridge.outbox (target, key, op, base_revision, payload, expires_at)
  SELECT 'AGENT_STATE', n.agent_id || '.' || bridge.encode_key(n.state_key), 'U',
         CASE WHEN n.kv_epoch = (SELECT s.kv_epoch FROM bridge.sources s WHERE s.bucket = 'AGENT_STATE')
              THEN n.kv_revision ELSE 0 END,
         n.state_value, n.expires_at
  FROM new_rows n;
  RETURN NULL;
END $$;

-- Rows whose value and time are unchanged write nothing; a key that the statement took away is deleted in KV.
CREATE FUNCTION bridge.capture_state_update() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF bridge.is_echo() THEN
    RETURN NULL;
  END IF;
  INSERT INTO bridge.outbox (target, key, op, base_revision, payload, expires_at)
  SELECT 'AGENT_STATE', agent_id || '.' || bridge.encode_key(state_key),
         CASE WHEN n.state_id IS NULL THEN 'D'::"char" ELSE 'U' END,
         CASE WHEN COALESCE(n.kv_epoch, o.kv_epoch)
                 = (SELECT s.kv_epoch FROM bridge.sources s WHERE s.bucket = 'AGENT_STATE')
              THEN COALESCE(n.kv_revision, o.kv_revision) ELSE 0 END,
         n.state_value, n.expires_at
  FROM new_rows n FULL JOIN old_rows o USING (agent_id, state_key)
  WHERE n.state_id IS NULL OR o.state_id IS NULL
     OR n.state_value IS DISTINCT FROM o.state_value OR n.expires_at IS DISTINCT FROM o.expires_at;
  RETURN NULL;
END $$;

-- As before, but not STRICT: a strict function around CASE is called for each row, this one becomes part of the query.
CREATE OR REPLACE FUNCTION bridge.encode_key(p_key text) RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
  SELECT CASE WHEN p_key ~ '^[-/_a-zA-Z0-9]+(\.[-/_a-zA-Z0-9]+)*$' COLLATE "C" THEN p_key
              ELSE bridge.encode_token(p_key) END
$$;

DO $$
DECLARE
  v_table regclass;
BEGIN
  FOR v_table IN SELECT 'agents.state'::regclass UNION ALL
                 SELECT inhrelid FROM pg_inherits WHERE inhparent = 'agents.state'::regclass LOOP
    EXECUTE format('CREATE OR REPLACE TRIGGER bridge_insert AFTER INSERT ON %s REFERENCING NEW TABLE AS new_rows
                    FOR EACH STATEMENT EXECUTE FUNCTION bridge.capture_state_insert()', v_table);
    EXECUTE format('CREATE OR REPLACE TRIGGER bridge_update AFTER UPDATE ON %s
                    REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows
                    FOR EACH STATEMENT EXECUTE FUNCTION bridge.capture_state_update()', v_table);
  END LOOP;
END $$;
