DROP FUNCTION sessions.purge_expired(integer);
DROP FUNCTION sessions.authenticate(text);
DROP FUNCTION sessions.open_session(text, interval, uuid, text, text);
DROP VIEW sessions.live;
