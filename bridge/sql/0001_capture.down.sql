-- CASCADE takes the triggers, on parents and on leaves
DROP FUNCTION bridge.capture_table(regclass, text, text, text, text, text);
DROP FUNCTION bridge.refuse_truncate() CASCADE;
DROP FUNCTION bridge.capture_delete() CASCADE;
DROP FUNCTION bridge.capture_update() CASCADE;
DROP FUNCTION bridge.capture_insert() CASCADE;
DROP FUNCTION bridge.is_echo();
DROP FUNCTION bridge.slug(text);
DROP FUNCTION bridge.encode_key(text);
DROP FUNCTION bridge.encode_token(text);
