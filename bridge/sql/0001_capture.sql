-- KV keys hold only [-/_=.a-zA-Z0-9]. One subject token: every other byte, and the dot, becomes =XX (UTF-8, upper case).
CREATE FUNCTION bridge.encode_token(p_text text) RETURNS text LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE AS $$
  SELECT string_agg(
    CASE WHEN chr(b.code) ~ '[-/_a-zA-Z0-9]' COLLATE "C" AND b.code < 128 THEN chr(b.code)
         ELSE '=' || lpad(upper(to_hex(b.code)), 2, '0') END, '' ORDER BY b.place)
  FROM (SELECT n AS place, get_byte(convert_to(p_text, 'UTF8'), n) AS code
        FROM generate_series(0, octet_length(convert_to(p_text, 'UTF8')) - 1) n) b
$$;

-- A state key as KV knows it: plain keys as they are (`memory.short`), any other as one encoded token. The same rule is
-- in bridge/keys.py; decoding is "=XX is a byte, the rest stands for itself".
CREATE FUNCTION bridge.encode_key(p_key text) RETURNS text LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE AS $$
  SELECT CASE WHEN p_key ~ '^[-/_a-zA-Z0-9]+(\.[-/_a-zA-Z0-9]+)*$' COLLATE "C" THEN p_key
              ELSE bridge.encode_token(p_key) END
$$;

-- A text for people as a short subject token: `ValueError: no such file` becomes valueerror_no_such_file.
CREATE FUNCTION bridge.slug(p_text text) RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
  SELECT COALESCE(NULLIF(trim('_' FROM left(regexp_replace(lower(p_text), '[^a-z0-9]+', '_', 'g'), 64)), ''), 'unknown')
$$;

-- True while a transaction applies what came from KV: that must not be sent back.
CREATE FUNCTION bridge.is_echo() RETURNS boolean LANGUAGE sql STABLE PARALLEL SAFE AS $$
  SELECT COALESCE(current_setting('sync.origin', true), '') = 'kv'
$$;

-- The three functions below are statement triggers with transition tables. Their arguments are SQL expressions over the
-- table's columns: target, key, watched, payload, base revision. All run by EXECUTE: as static SQL the session would keep
-- the plan of its first call, and after a one-row update a bulk update would join its transition tables by nested loop.
CREATE FUNCTION bridge.capture_insert() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF bridge.is_echo() THEN
    RETURN NULL;
  END IF;
  EXECUTE format(
    'INSERT INTO bridge.outbox (target, key, op, base_revision, payload)
     SELECT %L, %s, ''U'', %s, %s FROM new_rows', TG_ARGV[0], TG_ARGV[1], TG_ARGV[4], TG_ARGV[3]);
  RETURN NULL;
END $$;

-- Rows whose watched columns are unchanged write nothing; a key that the statement took away is deleted in KV.
CREATE FUNCTION bridge.capture_update() RETURNS trigger LANGUAGE plpgsql AS $$
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

CREATE FUNCTION bridge.capture_delete() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF bridge.is_echo() THEN
    RETURN NULL;
  END IF;
  EXECUTE format(
    'INSERT INTO bridge.outbox (target, key, op, base_revision)
     SELECT %L, %s, ''D'', %s FROM old_rows', TG_ARGV[0], TG_ARGV[1], TG_ARGV[4]);
  RETURN NULL;
END $$;

CREATE FUNCTION bridge.refuse_truncate() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF COALESCE(current_setting('bridge.allow_truncate', true), '') = 'on' THEN
    RETURN NULL;
  END IF;
  RAISE EXCEPTION 'TRUNCATE of %.% would leave its keys in JetStream', TG_TABLE_SCHEMA, TG_TABLE_NAME
    USING ERRCODE = 'object_not_in_prerequisite_state',
          HINT = 'use DELETE; or SET bridge.allow_truncate = ''on'', truncate, and run manage.py bridge reconcile';
END $$;

-- Mirror a table into a KV bucket: the three triggers, and the refusal of TRUNCATE. `watched` decides whether an update is
-- worth sending. Leaves need partitions.copy_statement_triggers: a parent's statement triggers do not fire for DML on them.
CREATE FUNCTION bridge.capture_table(
  p_table regclass, p_bucket text, p_key text, p_watched text, p_payload text, p_base_revision text DEFAULT 'NULL::bigint')
RETURNS void LANGUAGE plpgsql AS $$
DECLARE
  v_arguments text := format('%L, %L, %L, %L, %L', p_bucket, p_key, p_watched, p_payload, p_base_revision);
BEGIN
  EXECUTE format('CREATE TRIGGER bridge_insert AFTER INSERT ON %s REFERENCING NEW TABLE AS new_rows
                  FOR EACH STATEMENT EXECUTE FUNCTION bridge.capture_insert(%s)', p_table, v_arguments);
  EXECUTE format('CREATE TRIGGER bridge_update AFTER UPDATE ON %s REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows
                  FOR EACH STATEMENT EXECUTE FUNCTION bridge.capture_update(%s)', p_table, v_arguments);
  EXECUTE format('CREATE TRIGGER bridge_delete AFTER DELETE ON %s REFERENCING OLD TABLE AS old_rows
                  FOR EACH STATEMENT EXECUTE FUNCTION bridge.capture_delete(%s)', p_table, v_arguments);
  EXECUTE format('CREATE TRIGGER bridge_truncate BEFORE TRUNCATE ON %s
                  FOR EACH STATEMENT EXECUTE FUNCTION bridge.refuse_truncate()', p_table);
END $$;
