-- Buckets that agents write too. What a writer in PostgreSQL had seen of a key is its row's revision, as long as that is
-- one of the bucket that is there now.
CREATE FUNCTION bridge.capture_shared(p_table regclass, p_bucket text, p_key text, p_value text)
RETURNS void LANGUAGE plpgsql AS $$
DECLARE
  v_base text := format('CASE WHEN kv_epoch = (SELECT s.kv_epoch FROM bridge.sources s WHERE s.bucket = %L) '
                        'THEN kv_revision ELSE 0 END', p_bucket);
  v_arguments text := format('%L, %L, %L, %L, %L', p_bucket, p_key, p_value, p_value, v_base);
  v_table regclass;
BEGIN
  FOR v_table IN SELECT p_table UNION ALL SELECT inhrelid FROM pg_inherits WHERE inhparent = p_table LOOP
    EXECUTE format('CREATE OR REPLACE TRIGGER bridge_insert AFTER INSERT ON %s REFERENCING NEW TABLE AS new_rows
                    FOR EACH STATEMENT EXECUTE FUNCTION bridge.capture_insert(%s)', v_table, v_arguments);
    EXECUTE format('CREATE OR REPLACE TRIGGER bridge_update AFTER UPDATE ON %s
                    REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows
                    FOR EACH STATEMENT EXECUTE FUNCTION bridge.capture_update(%s)', v_table, v_arguments);
    EXECUTE format('CREATE OR REPLACE TRIGGER bridge_delete AFTER DELETE ON %s REFERENCING OLD TABLE AS old_rows
                    FOR EACH STATEMENT EXECUTE FUNCTION bridge.capture_delete(%s)', v_table, v_arguments);
    EXECUTE format('CREATE OR REPLACE TRIGGER bridge_truncate BEFORE TRUNCATE ON %s
                    FOR EACH STATEMENT EXECUTE FUNCTION bridge.refuse_truncate()', v_table);
  END LOOP;
END $$;
SELECT bridge.capture_shared('agents.state', 'AGENT_STATE', 'agent_id || ''.'' || bridge.encode_key(state_key)',
                             'state_value');

-- A deleted row leaves the position that it had.
CREATE FUNCTION bridge.keep_tombstones() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF bridge.is_echo() THEN
    RETURN NULL;
  END IF;
  INSERT INTO bridge.tombstones AS t (bucket, key, kv_epoch, kv_revision)
  SELECT 'AGENT_STATE', o.agent_id || '.' || bridge.encode_key(o.state_key), o.kv_epoch, o.kv_revision
  FROM old_rows o WHERE o.kv_revision > 0
  ORDER BY 2
  ON CONFLICT (bucket, key) DO UPDATE
  SET kv_epoch = EXCLUDED.kv_epoch, kv_revision = EXCLUDED.kv_revision, deleted_at = now()
  WHERE (t.kv_epoch, t.kv_revision) < (EXCLUDED.kv_epoch, EXCLUDED.kv_revision);
  RETURN NULL;
END $$;
CREATE TRIGGER bridge_tombstones AFTER DELETE ON agents.state REFERENCING OLD TABLE AS old_rows
  FOR EACH STATEMENT EXECUTE FUNCTION bridge.keep_tombstones();
SELECT partitions.copy_statement_triggers(inhparent, inhrelid) FROM pg_inherits WHERE inhparent = 'agents.state'::regclass;

-- SESSION_DATA mirrors what a session holds. Only PostgreSQL opens and ends sessions: agents write the data of one that
-- is there, so ended ones need no tombstone.
ALTER TABLE sessions.active
  ADD COLUMN kv_epoch bigint NOT NULL DEFAULT 0,
  ADD COLUMN kv_revision bigint NOT NULL DEFAULT 0;
SELECT bridge.capture_shared('sessions.active', 'SESSION_DATA', 'session_id::text', 'session_data');

-- As before, but for a transaction that logs what came from AGENT_MESSAGES.
CREATE OR REPLACE FUNCTION bridge.capture_messages() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF bridge.is_echo() THEN
    RETURN NULL;
  END IF;
  INSERT INTO bridge.outbox (target, key, op, payload)
  SELECT 'AGENT_MESSAGES',
         bridge.message_subject(
           m.from_agent_id, m.to_agent_id, m.broadcast_to_type, c.channel_name, c.channel_type, m.message_type, m.subject),
         'E',
         bridge.message_event(jsonb_build_object(
           'message_id', m.message_id, 'from_agent_id', m.from_agent_id, 'to_agent_id', m.to_agent_id,
           'broadcast_to_type', m.broadcast_to_type, 'channel', c.channel_name, 'message_type', m.message_type,
           'subject', m.subject, 'payload', m.payload, 'headers', m.headers, 'correlation_id', m.correlation_id,
           'reply_to', m.reply_to, 'priority', m.priority, 'sent_at', m.sent_at, 'expires_at', m.expires_at))
  FROM new_rows m LEFT JOIN messages.channels c ON c.channel_id = m.channel_id
  WHERE num_nonnulls(m.to_agent_id, m.broadcast_to_type, m.channel_id) > 0
  ORDER BY m.message_id;
  RETURN NULL;
END $$;
