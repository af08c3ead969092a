-- the functions of 0001 and the triggers of 0003 again
CREATE OR REPLACE FUNCTION bridge.capture_insert() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF bridge.is_echo() THEN
    RETURN NULL;
  END IF;
  EXECUTE format(
    'INSERT INTO bridge.outbox (target, key, op, base_revision, payload)
     SELECT %L, %s, ''U'', %s, %s FROM new_rows', TG_ARGV[0], TG_ARGV[1], TG_ARGV[4], TG_ARGV[3]);
  RETURN NULL;
END $$;

CREATE OR REPLACE FUNCTION bridge.capture_update() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF bridge.is_echo() THEN
    RETURN NULL;
  END IF;
  EXECUTE format(
    'WITH before AS (SELECT %2$s AS key, %3$s AS watched, %5$s AS base_revision FROM old_rows),
          after AS (SELECT %2$s AS key, %3$s AS watched, %5$s AS base_revision, %4$s AS payload FROM new_rows)
     INSERT INTO bridge.outbox (target, key, op, base_revision, payload)
     SELECT %1$L, b.key, ''D''::"char", b.base_revision, NULL::jsonb
     FROM before b LEFT JOIN after a USING (key) WHERE a.key IS NULL
     UNION ALL
     SELECT %1$L, a.key, ''U''::"char", a.base_revision, a.payload
     FROM after a LEFT JOIN before b USING (key) WHERE b.key IS NULL OR b.watched IS DISTINCT FROM a.watched',
    TG_ARGV[0], TG_ARGV[1], TG_ARGV[2], TG_ARGV[3], TG_ARGV[4]);
  RETURN NULL;
END $$;

SELECT bridge.capture_shared('agents.state', 'AGENT_STATE', 'agent_id || ''.'' || bridge.encode_key(state_key)',
                             'state_value');
ALTER TABLE bridge.quarantine DROP COLUMN expires_at;
ALTER TABLE bridge.outbox DROP COLUMN expires_at;
