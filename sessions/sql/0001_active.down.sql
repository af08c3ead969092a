DROP TABLE sessions.active;
DROP FUNCTION sessions.token_id(bytea);
