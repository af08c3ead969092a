-- A row that expires takes its time to KV: outbox rows carry expires_at, and a change of it alone is worth sending.
ALTER TABLE bridge.outbox ADD COLUMN expires_at timestamptz;
COMMENT ON COLUMN bridge.outbox.expires_at IS 'when the value runs out, also in KV; NULL: it does not, or the row has none';
ALTER TABLE bridge.quarantine ADD COLUMN expires_at timestamptz;

-- As before, with a sixth argument: the expression that tells when a row expires. Triggers made without it have none.
CREATE OR REPLACE FUNCTION bridge.capture_insert() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF bridge.is_echo() THEN
    RETURN NULL;
  END IF;
  EXECUTE format(
    'INSERT INTO bridge.outbox (target, key, op, base_revision, payload, expires_at)
     SELECT %L, %s, ''U'', %s, %s, %s FROM new_rows',
    TG_ARGV[0], TG_ARGV[1], TG_ARGV[4], TG_ARGV[3], COALESCE(TG_ARGV[5], 'NULL::timestamptz'));
  RETURN NULL;
END $$;

CREATE OR REPLACE FUNCTION bridge.capture_update() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF bridge.is_echo() THEN
    RETURN NULL;
  END IF;
  EXECUTE format(
    'WITH before AS (SELECT %2$s AS key, %3$s AS watched, %5$s AS base_revision FROM old_rows),
          after AS (SELECT %2$s AS key, %3$s AS watched, %5$s AS base_revision, %4$s AS payload, %6$s AS expires_at
                    FROM new_rows)
     INSERT INTO bridge.outbox (target, key, op, base_revision, payload, expires_at)
     SELECT %1$L, b.key, ''D''::"char", b.base_revision, NULL::jsonb, NULL::timestamptz
     FROM before b LEFT JOIN after a USING (key) WHERE a.key IS NULL
     UNION ALL
     SELECT %1$L, a.key, ''U''::"char", a.base_revision, a.payload, a.expires_at
     FROM after a LEFT JOIN before b USING (key) WHERE b.key IS NULL OR b.watched IS DISTINCT FROM a.watched',
    TG_ARGV[0], TG_ARGV[1], TG_ARGV[2], TG_ARGV[3], TG_ARGV[4], COALESCE(TG_ARGV[5], 'NULL::timestamptz'));
  RETURN NULL;
END $$;

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
