-- Partitions of an hour, a day, a week, a month or what is left between others; all that a leaf takes over from its
-- table; rows that wait in DEFAULT. Replaces 0001_functions where the names are the same.

-- every range partition with its bounds in time, NULL where one is open; detached-but-not-finalized ones included
CREATE OR REPLACE VIEW partitions.ranges AS
SELECT pn.nspname::text AS schema_name, p.relname::text AS parent_name, p.oid AS parent_oid,
       c.oid AS partition_oid, c.relname::text AS partition_name,
       b.is_default, i.inhdetachpending AS detach_pending,
       CASE WHEN b.is_default THEN NULL
            WHEN b.key_type = 'uuid'::regtype THEN partitions.uuid7_time(b.lower_text::uuid)
            WHEN b.key_type = 'timestamptz'::regtype THEN b.lower_text::timestamptz
            ELSE b.lower_text::timestamp AT TIME ZONE 'UTC' END AS lower_time,
       CASE WHEN b.is_default THEN NULL
            WHEN b.key_type = 'uuid'::regtype THEN partitions.uuid7_time(b.upper_text::uuid)
            WHEN b.key_type = 'timestamptz'::regtype THEN b.upper_text::timestamptz
            ELSE b.upper_text::timestamp AT TIME ZONE 'UTC' END AS upper_time
FROM pg_partitioned_table t
JOIN pg_class p ON p.oid = t.partrelid
JOIN pg_namespace pn ON pn.oid = p.relnamespace
JOIN pg_inherits i ON i.inhparent = p.oid
JOIN pg_class c ON c.oid = i.inhrelid
JOIN pg_attribute a ON a.attrelid = p.oid AND a.attnum = t.partattrs[0]
JOIN pg_type ty ON ty.oid = a.atttypid
CROSS JOIN LATERAL (SELECT pg_get_expr(c.relpartbound, c.oid) AS bound) x
CROSS JOIN LATERAL (
  SELECT x.bound = 'DEFAULT' AS is_default,
         substring(x.bound FROM 'FROM \(''([^'']+)''\)') AS lower_text,
         substring(x.bound FROM 'TO \(''([^'']+)''\)') AS upper_text,
         COALESCE(NULLIF(ty.typbasetype, 0), ty.oid) AS key_type) b
WHERE t.partstrat = 'r' AND t.partnatts = 1
  AND b.key_type IN ('uuid'::regtype, 'timestamptz'::regtype, 'timestamp'::regtype, 'date'::regtype);

-- Name and type (domains resolved) of the one column that a table is range partitioned by; an error for other tables.
CREATE FUNCTION partitions.key_of(p_parent regclass, OUT key name, OUT key_type regtype) LANGUAGE plpgsql STABLE AS $$
BEGIN
  SELECT a.attname, COALESCE(NULLIF(ty.typbasetype, 0), ty.oid) INTO key, key_type
  FROM pg_partitioned_table t
  JOIN pg_attribute a ON a.attrelid = t.partrelid AND a.attnum = t.partattrs[0]
  JOIN pg_type ty ON ty.oid = a.atttypid
  WHERE t.partrelid = p_parent AND t.partstrat = 'r' AND t.partnatts = 1;
  IF NOT FOUND THEN
    RAISE EXCEPTION '% is not range partitioned by one column', p_parent USING ERRCODE = 'wrong_object_type';
  END IF;
END $$;

-- A moment as a bound of that column: as text, whatever the session's time zone and date style.
CREATE FUNCTION partitions.bound_text(p_parent regclass, p_moment timestamptz) RETURNS text LANGUAGE plpgsql STABLE AS $$
DECLARE
  v_type regtype := (SELECT k.key_type FROM partitions.key_of(p_parent) k);
  v_utc timestamp := p_moment AT TIME ZONE 'UTC';
BEGIN
  CASE v_type
    WHEN 'uuid'::regtype THEN RETURN partitions.uuid7_floor(p_moment)::text;
    WHEN 'timestamptz'::regtype THEN RETURN to_char(v_utc, 'YYYY-MM-DD HH24:MI:SS+00');
    WHEN 'timestamp'::regtype THEN RETURN to_char(v_utc, 'YYYY-MM-DD HH24:MI:SS');
    WHEN 'date'::regtype THEN
      IF v_utc <> date_trunc('day', v_utc) THEN
        RAISE EXCEPTION '% is partitioned by a date: % is within a day', p_parent, p_moment
          USING ERRCODE = 'invalid_parameter_value', HINT = 'use an interval of a day or longer';
      END IF;
      RETURN to_char(v_utc, 'YYYY-MM-DD');
    ELSE
      RAISE EXCEPTION 'partition key type % is not supported', v_type USING ERRCODE = 'feature_not_supported';
  END CASE;
END $$;

-- A stand-alone table that fits as a partition: columns, defaults, checks, indexes, statistics, storage by LIKE; owner,
-- who may read, statistics targets, replica identity and tablespace of the parent; storage parameters (autovacuum,
-- fillfactor) of its newest partition, since a partitioned table has none. Row triggers and foreign keys come with ATTACH.
-- The check part_bound lets ATTACH believe that the rows fit. An identity column stays the parent's.
CREATE FUNCTION partitions.create_leaf(p_parent regclass, p_name text, p_lower_text text, p_upper_text text)
RETURNS regclass LANGUAGE plpgsql AS $$
DECLARE
  v_parent pg_class := (SELECT c FROM pg_class c WHERE c.oid = p_parent);
  v_key name := (SELECT k.key FROM partitions.key_of(p_parent) k);
  v_schema text := v_parent.relnamespace::regnamespace::text;
  v_leaf text := format('%s.%I', v_schema, p_name);
  v_options text := (
    SELECT string_agg(format('%I = %L', split_part(o, '=', 1), substr(o, strpos(o, '=') + 1)), ', ')
    FROM unnest((SELECT c.reloptions FROM partitions.ranges r JOIN pg_class c ON c.oid = r.partition_oid
                 WHERE r.parent_oid = p_parent AND NOT r.is_default AND NOT r.detach_pending
                 ORDER BY r.upper_time DESC NULLS LAST LIMIT 1)) o);
  v_row record;
BEGIN
  IF length(p_name) > 63 THEN
    RAISE EXCEPTION 'partition name % is longer than 63 characters', p_name USING ERRCODE = 'name_too_long';
  END IF;
  EXECUTE format(
    'CREATE TABLE %s (LIKE %s INCLUDING ALL EXCLUDING IDENTITY, '
    'CONSTRAINT part_bound CHECK (%I IS NOT NULL AND %I >= %L AND %I < %L)) %s %s',
    v_leaf, p_parent, v_key, v_key, p_lower_text, v_key, p_upper_text, 'WITH (' || v_options || ')',
    (SELECT 'TABLESPACE ' || quote_ident(spcname) FROM pg_tablespace WHERE oid = v_parent.reltablespace));
  IF v_parent.relowner <> (SELECT oid FROM pg_roles WHERE rolname = current_user) THEN
    EXECUTE format('ALTER TABLE %s OWNER TO %I', v_leaf, pg_get_userbyid(v_parent.relowner));
  END IF;
  IF v_parent.relreplident IN ('f', 'n') THEN
    EXECUTE format('ALTER TABLE %s REPLICA IDENTITY %s', v_leaf,
                   CASE v_parent.relreplident WHEN 'f' THEN 'FULL' ELSE 'NOTHING' END);
  END IF;
  FOR v_row IN SELECT attname, attstattarget FROM pg_attribute
               WHERE attrelid = p_parent AND attnum > 0 AND NOT attisdropped AND attstattarget >= 0 LOOP
    EXECUTE format('ALTER TABLE %s ALTER COLUMN %I SET STATISTICS %s', v_leaf, v_row.attname, v_row.attstattarget);
  END LOOP;
  FOR v_row IN SELECT DISTINCT CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(a.grantee)) END AS who
               FROM aclexplode(v_parent.relacl) a
               WHERE a.privilege_type = 'SELECT' AND a.grantee <> v_parent.relowner
                 AND NOT v_parent.relrowsecurity LOOP  -- the leaf has no policies: reading it would get around them
    EXECUTE format('GRANT SELECT ON %s TO %s', v_leaf, v_row.who);
  END LOOP;
  RETURN v_leaf::regclass;
END $$;

-- Take the locks of an ATTACH in one order, and say in partitions.lock_wait_ms (of this transaction) how long it took:
-- the parent, then the tables that foreign keys lead to or come from, which ATTACH locks too.
CREATE FUNCTION partitions.lock_for_attach(p_parent regclass, p_mode text) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
  v_start timestamptz := clock_timestamp();
  v_other regclass;
BEGIN
  EXECUTE format('LOCK TABLE ONLY %s IN %s MODE', p_parent, p_mode);
  FOR v_other IN
    SELECT DISTINCT other FROM (
      SELECT confrelid AS other FROM pg_constraint WHERE conrelid = p_parent AND contype = 'f'
      UNION
      SELECT conrelid FROM pg_constraint WHERE confrelid = p_parent AND contype = 'f' AND conparentid = 0) o
    WHERE other <> p_parent AND has_table_privilege(other, 'UPDATE, DELETE, TRUNCATE') ORDER BY other
  LOOP
    EXECUTE format('LOCK TABLE %s IN SHARE ROW EXCLUSIVE MODE', v_other);
  END LOOP;
  PERFORM set_config('partitions.lock_wait_ms',
                     round(extract(epoch FROM clock_timestamp() - v_start) * 1000)::text, true);
END $$;

-- Let a leaf of `create_leaf` become a partition. Locks the parent SHARE UPDATE EXCLUSIVE: readers and writers go on.
CREATE FUNCTION partitions.attach_leaf(p_parent regclass, p_leaf regclass, p_lower_text text, p_upper_text text)
RETURNS void LANGUAGE plpgsql AS $$
BEGIN
  PERFORM partitions.lock_for_attach(p_parent, 'SHARE UPDATE EXCLUSIVE');
  EXECUTE format('ALTER TABLE %s ATTACH PARTITION %s FOR VALUES FROM (%L) TO (%L)',
                 p_parent, p_leaf, p_lower_text, p_upper_text);
  EXECUTE format('ALTER TABLE %s DROP CONSTRAINT part_bound', p_leaf);
END $$;

-- Move the rows that fulfil p_condition from a DEFAULT partition to a leaf that is about to be attached. The caller holds
-- ACCESS EXCLUSIVE on the parent, so that nobody is on his way to DEFAULT: no writer fails, no reader misses a row. A move
-- is neither a delete nor an insert to anybody: user triggers rest, and the foreign keys' own where we may say so.
CREATE FUNCTION partitions.move_from_default(p_default regclass, p_leaf text, p_condition text) RETURNS bigint
LANGUAGE plpgsql AS $$
DECLARE
  v_columns text := (SELECT string_agg(quote_ident(attname), ', ' ORDER BY attnum) FROM pg_attribute
                     WHERE attrelid = p_default AND attnum > 0 AND NOT attisdropped AND attgenerated = '');
  v_which text := CASE WHEN (SELECT rolsuper FROM pg_roles WHERE rolname = current_user) THEN 'ALL' ELSE 'USER' END;
  v_moved bigint;
BEGIN
  EXECUTE format('LOCK TABLE %s IN ACCESS EXCLUSIVE MODE', p_default);
  EXECUTE format('ALTER TABLE %s DISABLE TRIGGER %s', p_default, v_which);
  EXECUTE format('WITH moved AS (DELETE FROM ONLY %s WHERE %s RETURNING %s) INSERT INTO %s (%s) SELECT %s FROM moved',
                 p_default, p_condition, v_columns, p_leaf, v_columns, v_columns);
  GET DIAGNOSTICS v_moved = ROW_COUNT;
  EXECUTE format('ALTER TABLE %s ENABLE TRIGGER %s', p_default, v_which);
  RETURN v_moved;
END $$;

-- Make the partition [p_lower, p_upper). Returns its name; the name of the one that already covers the range, if one does.
-- Locks the parent SHARE UPDATE EXCLUSIVE only (stand-alone table, then ATTACH). Where the table has a DEFAULT partition,
-- its rows of that range move along, and readers and writers wait for that moment. A name that is taken gets a number
-- behind it: nothing goes by names.
CREATE FUNCTION partitions.create_range_partition(p_table text, p_lower timestamptz, p_upper timestamptz)
RETURNS text LANGUAGE plpgsql AS $$
DECLARE
  v_parent regclass := p_table::regclass;
  v_key name := (SELECT k.key FROM partitions.key_of(v_parent) k);
  v_lower_text text := partitions.bound_text(v_parent, p_lower);
  v_upper_text text := partitions.bound_text(v_parent, p_upper);
  v_schema text; v_table text; v_base text; v_name text; v_leaf regclass; v_default regclass; v_old record;
  v_utc timestamp := p_lower AT TIME ZONE 'UTC';
  v_number integer := 1;
BEGIN
  IF p_upper <= p_lower THEN
    RAISE EXCEPTION 'range % .. % is empty', p_lower, p_upper USING ERRCODE = 'invalid_parameter_value';
  END IF;
  SELECT n.nspname, c.relname INTO v_schema, v_table
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = v_parent;
  PERFORM pg_advisory_xact_lock(hashtext('partitions'), v_parent::oid::int);  -- two at once: the second one waits
  SELECT * INTO v_old FROM partitions.ranges r
  WHERE r.parent_oid = v_parent AND NOT r.is_default
    AND COALESCE(r.lower_time < p_upper, true) AND COALESCE(r.upper_time > p_lower, true)
  ORDER BY r.lower_time LIMIT 1;
  IF FOUND THEN
    IF COALESCE(v_old.lower_time <= p_lower, true) AND COALESCE(v_old.upper_time >= p_upper, true) THEN
      RETURN v_schema || '.' || v_old.partition_name;
    END IF;
    RAISE EXCEPTION 'range % .. % overlaps partition %', p_lower, p_upper, v_old.partition_name
      USING ERRCODE = 'duplicate_table';
  END IF;

  v_base := v_table || to_char(v_utc, CASE WHEN v_utc = date_trunc('day', v_utc) THEN '_YYYY_MM_DD' ELSE '_YYYY_MM_DD_HH24' END);
  v_name := v_base;
  WHILE to_regclass(format('%I.%I', v_schema, v_name)) IS NOT NULL LOOP
    v_number := v_number + 1;
    v_name := v_base || '_' || v_number;
  END LOOP;
  v_leaf := partitions.create_leaf(v_parent, v_name, v_lower_text, v_upper_text);
  SELECT r.partition_oid INTO v_default FROM partitions.ranges r WHERE r.parent_oid = v_parent AND r.is_default;
  IF v_default IS NOT NULL THEN
    PERFORM partitions.lock_for_attach(v_parent, 'ACCESS EXCLUSIVE');
    PERFORM partitions.move_from_default(v_default, v_leaf::text,
      format('%I >= %L AND %I < %L', v_key, v_lower_text, v_key, v_upper_text));
  END IF;
  PERFORM partitions.attach_leaf(v_parent, v_leaf, v_lower_text, v_upper_text);
  RETURN v_schema || '.' || v_name;
END $$;

-- Guide 13.2: whole days from a date, in UTC whatever the session's time zone. See create_range_partition.
CREATE OR REPLACE FUNCTION partitions.create_time_partition(
  p_table_name text, p_start_date date, p_interval interval DEFAULT '1 day'
) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
  v_end timestamp := p_start_date + p_interval;
BEGIN
  IF v_end <> date_trunc('day', v_end) OR v_end <= p_start_date THEN
    RAISE EXCEPTION 'interval % must be a positive whole number of days', p_interval
      USING ERRCODE = 'invalid_parameter_value';
  END IF;
  RETURN partitions.create_range_partition(
    p_table_name, p_start_date::timestamp AT TIME ZONE 'UTC', v_end AT TIME ZONE 'UTC');
END $$;

-- Rows and their checksum, which depends neither on their order nor on the session's settings.
CREATE FUNCTION partitions.checksum_of(p_table regclass, p_columns text[], OUT row_count bigint, OUT checksum text)
LANGUAGE plpgsql STABLE
SET timezone = 'UTC' SET datestyle = 'ISO, YMD' SET intervalstyle = 'postgres' SET bytea_output = 'hex'
SET extra_float_digits = 1 AS $$
BEGIN
  EXECUTE format(
    'SELECT count(*), COALESCE(sum((''x'' || left(md5(r::text), 16))::bit(64)::bigint), 0)::text '
    'FROM (SELECT %s FROM ONLY %s) r',
    (SELECT string_agg(quote_ident(name), ', ' ORDER BY place) FROM unnest(p_columns) WITH ORDINALITY c (name, place)),
    p_table) INTO row_count, checksum;
END $$;

-- What was brought back from an archive is for reading: the archive would no longer equal it.
CREATE FUNCTION partitions.refuse_write() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  RAISE EXCEPTION '%.% was brought back from an archive: it is read-only', TG_TABLE_SCHEMA, TG_TABLE_NAME
    USING ERRCODE = 'read_only_sql_transaction', HINT = 'let it go: manage.py partitions attach --release';
END $$;

-- The guide's function: make p_future_days ahead, in the interval of the table's policy (daily without one), and remove
-- what is older than p_retain_days (NULL keeps all): only what is archived, verified and unchanged, or whose policy says
-- drop. Names what it kept in a notice. Returns partitions made plus removed. A function cannot detach CONCURRENTLY, so
-- readers and writers wait for the moment of each removal, at most lock_timeout (2 s where none is set): upkeep from beat
-- or `manage.py partitions apply` spares them that, and looks at the archive's file as well.
CREATE OR REPLACE FUNCTION partitions.manage_time_partitions(
  p_table_name text, p_retain_days integer DEFAULT 30, p_future_days integer DEFAULT 7
) RETURNS integer LANGUAGE plpgsql AS $$
DECLARE
  v_parent regclass := p_table_name::regclass;
  v_policy record;
  v_step interval; v_slot timestamp; v_last timestamp; v_piece record; v_row record; v_archive record;
  v_today timestamp := date_trunc('day', now() AT TIME ZONE 'UTC');
  v_before bigint; v_after bigint; v_dropped integer := 0; v_may_drop boolean;
BEGIN
  IF current_setting('lock_timeout') = '0' THEN
    PERFORM set_config('lock_timeout', '2s', true);
  END IF;
  SELECT p.on_expiry, p.partition_interval INTO v_policy
  FROM partitions.policies p WHERE to_regclass(p.table_name) = v_parent;
  v_step := ('1 ' || COALESCE(v_policy.partition_interval, 'day'))::interval;
  v_slot := date_trunc(COALESCE(v_policy.partition_interval, 'day'), now() AT TIME ZONE 'UTC');
  v_last := v_today + make_interval(days => p_future_days);
  SELECT count(*) INTO v_before FROM partitions.ranges r WHERE r.parent_oid = v_parent;
  WHILE v_slot <= v_last LOOP
    FOR v_piece IN  -- what is left of the slot between the partitions that exist
      SELECT lower(p) AS lower_time, upper(p) AS upper_time
      FROM unnest(tstzmultirange(tstzrange(v_slot AT TIME ZONE 'UTC', (v_slot + v_step) AT TIME ZONE 'UTC'))
        - COALESCE((SELECT range_agg(tstzrange(r.lower_time, r.upper_time)) FROM partitions.ranges r
                    WHERE r.parent_oid = v_parent AND NOT r.is_default), '{}')) p
    LOOP
      PERFORM partitions.create_range_partition(p_table_name, v_piece.lower_time, v_piece.upper_time);
    END LOOP;
    v_slot := v_slot + v_step;
  END LOOP;
  SELECT count(*) INTO v_after FROM partitions.ranges r WHERE r.parent_oid = v_parent;
  IF p_retain_days IS NULL THEN
    RETURN (v_after - v_before)::integer;
  END IF;
  FOR v_row IN
    SELECT r.*, format('%I.%I', r.schema_name, r.partition_name) AS quoted,
           format('%I.%I', r.schema_name, r.parent_name) AS parent_quoted
    FROM partitions.ranges r
    WHERE r.parent_oid = v_parent AND NOT r.is_default
      AND r.upper_time <= (v_today AT TIME ZONE 'UTC') - make_interval(days => p_retain_days)
      AND NOT EXISTS (SELECT FROM partitions.marks m
                      WHERE m.partition_oid = r.partition_oid AND m.kind IN ('brought back', 'releasing'))
    ORDER BY r.lower_time
  LOOP
    SELECT a.* INTO v_archive FROM partitions.archives a
    WHERE a.partition_oid = v_row.partition_oid AND a.state = 'verified' ORDER BY a.created_at DESC LIMIT 1;
    v_may_drop := COALESCE(v_policy.on_expiry = 'drop', false);
    IF NOT v_may_drop AND v_archive.archive_id IS NOT NULL AND COALESCE(v_policy.on_expiry, 'archive') = 'archive' THEN
      EXECUTE format('LOCK TABLE %s IN SHARE MODE', v_row.quoted);
      SELECT (s.row_count, s.checksum) = (v_archive.row_count, v_archive.checksum) INTO v_may_drop
      FROM partitions.checksum_of(v_row.partition_oid, v_archive.columns) s;
    END IF;
    IF v_may_drop THEN
      EXECUTE format('ALTER TABLE %s DETACH PARTITION %s %s', v_row.parent_quoted, v_row.quoted,
                     CASE WHEN v_row.detach_pending THEN 'FINALIZE' ELSE '' END);
      EXECUTE format('DROP TABLE %s', v_row.quoted);
      UPDATE partitions.archives SET dropped_at = now() WHERE archive_id = v_archive.archive_id;
      DELETE FROM partitions.marks WHERE partition_oid = v_row.partition_oid;
      v_dropped := v_dropped + 1;
    ELSE
      RAISE NOTICE 'partition %.% is out of retention and was kept', v_row.schema_name, v_row.partition_name
        USING HINT = 'archive it (manage.py partitions archive), or set on_expiry to drop in partitions.policies';
    END IF;
  END LOOP;
  RETURN (v_after - v_before)::integer + v_dropped;
END $$;
