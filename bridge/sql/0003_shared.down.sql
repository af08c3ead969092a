-- the functions and triggers of 0001 again
CREATE OR REPLACE FUNCTION bridge.capture_messages() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
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
DO $$
DECLARE v_table regclass; v_name text;
BEGIN
  FOR v_table IN SELECT 'sessions.active'::regclass UNION ALL
                 SELECT inhrelid FROM pg_inherits WHERE inhparent = 'sessions.active'::regclass LOOP
    FOREACH v_name IN ARRAY ARRAY['bridge_insert', 'bridge_update', 'bridge_delete', 'bridge_truncate'] LOOP
      EXECUTE format('DROP TRIGGER %I ON %s', v_name, v_table);
    END LOOP;
  END LOOP;
  FOR v_table IN SELECT 'agents.state'::regclass UNION ALL
                 SELECT inhrelid FROM pg_inherits WHERE inhparent = 'agents.state'::regclass LOOP
    FOREACH v_name IN ARRAY ARRAY['bridge_insert', 'bridge_update', 'bridge_delete', 'bridge_truncate',
                                  'bridge_tombstones'] LOOP
      EXECUTE format('DROP TRIGGER %I ON %s', v_name, v_table);
    END LOOP;
  END LOOP;
END $$;
ALTER TABLE sessions.active DROP COLUMN kv_epoch, DROP COLUMN kv_revision;
DROP FUNCTION bridge.keep_tombstones();
DROP FUNCTION bridge.capture_shared(regclass, text, text, text);
SELECT bridge.capture_table('agents.state', 'AGENT_STATE',
  'agent_id || ''.'' || bridge.encode_key(state_key)', 'state_value', 'state_value', 'kv_revision');
SELECT partitions.copy_statement_triggers(inhparent, inhrelid) FROM pg_inherits WHERE inhparent = 'agents.state'::regclass;
