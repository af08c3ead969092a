-- messages.log on the stream AGENT_MESSAGES: messages.direct.<from>.<to>, messages.broadcast.<from>,
-- messages.notification.<agent type>, messages.topic.<channel>.<subject>, messages.queue.<channel>. The control plane as a
-- sender is `system`; what a direct channel carries is messages.direct.<from>.<channel>.
CREATE FUNCTION bridge.message_subject(
  p_from uuid, p_to uuid, p_to_type text, p_channel text, p_channel_type text, p_message_type message_type, p_subject text)
RETURNS text LANGUAGE sql STABLE PARALLEL SAFE AS $$
  SELECT 'messages.' || CASE
    WHEN p_to IS NOT NULL THEN format('direct.%s.%s', s.sender, p_to)
    WHEN p_to_type IS NOT NULL AND p_message_type = 'notification'
      THEN format('notification.%s', bridge.encode_token(p_to_type))
    WHEN p_channel_type = 'direct' THEN format('direct.%s.%s', s.sender, bridge.encode_token(p_channel))
    WHEN p_channel_type = 'queue' THEN format('queue.%s', bridge.encode_token(p_channel))
    WHEN p_channel_type = 'topic' THEN concat_ws('.', 'topic', bridge.encode_token(p_channel), (
      SELECT string_agg(bridge.encode_token(t.token), '.' ORDER BY t.place)
      FROM unnest(string_to_array(p_subject, '.')) WITH ORDINALITY AS t (token, place)))
    ELSE format('broadcast.%s', s.sender) END
  FROM (SELECT COALESCE(p_from::text, 'system') AS sender) s
$$;

-- What goes out. The stream takes 256 KiB: of a larger message only the reference, by which its payload is found in
-- messages.log. 4 KiB are left for headers and subject.
CREATE FUNCTION bridge.message_event(p_message jsonb) RETURNS jsonb LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
  SELECT CASE WHEN octet_length(p_message::text) <= (256 - 4) * 1024 THEN p_message
              ELSE p_message - 'payload' - 'headers' || '{"is_reference": true}' END
$$;

-- A heartbeat without a route has no subject in this stream: agents.heartbeat.> is its place.
CREATE FUNCTION bridge.capture_messages() RETURNS trigger LANGUAGE plpgsql AS $$
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
CREATE TRIGGER bridge_events AFTER INSERT ON messages.log REFERENCING NEW TABLE AS new_rows
  FOR EACH STATEMENT EXECUTE FUNCTION bridge.capture_messages();
