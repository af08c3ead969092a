DROP TRIGGER bridge_events ON messages.log;
DROP FUNCTION bridge.capture_messages();
DROP FUNCTION bridge.message_event(jsonb);
DROP FUNCTION bridge.message_subject(uuid, uuid, text, text, text, message_type, text);
