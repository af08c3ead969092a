DO $$
DECLARE
  v_table regclass;
  v_base text := 'CASE WHEN kv_epoch = (SELECT s.kv_epoch FROM bridge.sources s WHERE s.bucket = ''AGENT_STATE'') '
                 'THEN kv_revision ELSE 0 END';
  v_arguments text := format('%L, %L, %L, %L, %L, %L', 'AGENT_STATE', 'agent_id || ''.'' || bridge.encode_key(state_key)',
                             'ROW(state_value, expires_at)', 'state_value', v_base, 'expires_at');
BEGIN
  FOR v_table IN SELECT 'agents.state'::regclass UNION ALL
                 SELECT inhrelid FROM pg_inherits WHERE inhparent = 'agents.state'::regclass LOOP
    EXECUTE format('CREATE OR REPLACE TRIGGER bridge_insert AFTER INSERT ON %s REFERENCING NEW TABLE AS new_rows
                    FOR EACH STATEMENT EXECUTE FUNCTION bridge.capture_insert(%s)', v_table, v_arguments);
    EXECUTE format('CREATE OR REPLACE TRIGGER bridge_update AFTER UPDATE ON %s
                    REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows
                    FOR EACH STATEMENT EXECUTE FUNCTION bridge.capture_update(%s)', v_table, v_arguments);
  END LOOP;
END $$;

DROP FUNCTION bridge.capture_state_insert();
DROP FUNCTION bridge.capture_state_update();

CREATE OR REPLACE FUNCTION bridge.encode_key(p_key text) RETURNS text LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE AS $$
  SELECT CASE WHEN p_key ~ '^[-/_a-zA-Z0-9]+(\.[-/_a-zA-Z0-9]+)*$' COLLATE "C" THEN p_key
              ELSE bridge.encode_token(p_key) END
$$;
