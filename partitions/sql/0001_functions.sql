-- Guide 13.2, as corrected. Partitions are found in the catalog (pg_inherits and bounds), never by their names.

-- every range partition with its bounds in time; detached-but-not-finalized ones included
CREATE VIEW partitions.ranges AS
SELECT pn.nspname::text AS schema_name, p.relname::text AS parent_name, p.oid AS parent_oid,
       c.oid AS partition_oid, c.relname::text AS partition_name,
       b.is_default, i.inhdetachpending AS detach_pending,
       CASE WHEN b.is_default THEN NULL
            WHEN b.is_uuid THEN partitions.uuid7_time(b.lower_text::uuid)
            ELSE b.lower_text::timestamptz END AS lower_time,
       CASE WHEN b.is_default THEN NULL
            WHEN b.is_uuid THEN partitions.uuid7_time(b.upper_text::uuid)
            ELSE b.upper_text::timestamptz END AS upper_time
FROM pg_partitioned_table t
JOIN pg_class p ON p.oid = t.partrelid
JOIN pg_namespace pn ON pn.oid = p.relnamespace
JOIN pg_inherits i ON i.inhparent = p.oid
JOIN pg_class c ON c.oid = i.inhrelid
CROSS JOIN LATERAL (SELECT pg_get_expr(c.relpartbound, c.oid) AS bound) x
CROSS JOIN LATERAL (
  SELECT x.bound = 'DEFAULT' AS is_default,
         substring(x.bound FROM 'FROM \(''([^'']+)''\)') AS lower_text,
         substring(x.bound FROM 'TO \(''([^'']+)''\)') AS upper_text,
         (SELECT COALESCE(NULLIF(ty.typbasetype, 0), ty.oid) = 'uuid'::regtype
          FROM pg_attribute a JOIN pg_type ty ON ty.oid = a.atttypid
          WHERE a.attrelid = p.oid AND a.attnum = t.partattrs[0]) AS is_uuid) b
WHERE t.partstrat = 'r' AND t.partnatts = 1;

-- Make the partition [p_start_date, p_start_date + p_interval) in UTC, whatever the session's time zone. Returns its
-- name; the name of the one that already covers the range, if one does. Locks the parent SHARE UPDATE EXCLUSIVE only
-- (stand-alone table, then ATTACH), so readers and writers go on. Indexes come from the parent.
CREATE FUNCTION partitions.create_time_partition(
  p_table_name text, p_start_date date, p_interval interval DEFAULT '1 day'
) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
  v_parent regclass := p_table_name::regclass;
  v_schema text; v_table text; v_name text; v_type regtype; v_key text;
  v_end timestamp := p_start_date + p_interval;
  v_lower timestamptz; v_upper timestamptz; v_lower_text text; v_upper_text text;
  v_old record;
BEGIN
  SELECT n.nspname, c.relname, COALESCE(NULLIF(ty.typbasetype, 0), ty.oid)::regtype, a.attname
    INTO v_schema, v_table, v_type, v_key
  FROM pg_partitioned_table t
  JOIN pg_class c ON c.oid = t.partrelid
  JOIN pg_namespace n ON n.oid = c.relnamespace
  JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = t.partattrs[0]
  JOIN pg_type ty ON ty.oid = a.atttypid
  WHERE c.oid = v_parent AND t.partstrat = 'r' AND t.partnatts = 1;
  IF NOT FOUND THEN
    RAISE EXCEPTION '% is not range partitioned by one column', v_parent USING ERRCODE = 'wrong_object_type';
  END IF;
  IF v_end <> date_trunc('day', v_end) OR v_end <= p_start_date THEN
    RAISE EXCEPTION 'interval % must be a positive whole number of days', p_interval
      USING ERRCODE = 'invalid_parameter_value';
  END IF;
  v_lower := p_start_date::timestamp AT TIME ZONE 'UTC';
  v_upper := v_end AT TIME ZONE 'UTC';
  v_name := v_table || '_' || to_char(p_start_date, 'YYYY_MM_DD');
  IF length(v_name) > 63 THEN
    RAISE EXCEPTION 'partition name % is longer than 63 characters', v_name USING ERRCODE = 'name_too_long';
  END IF;

  PERFORM pg_advisory_xact_lock(hashtext('partitions'), v_parent::oid::int);  -- two at once: the second one waits
  SELECT * INTO v_old FROM partitions.ranges r
  WHERE r.parent_oid = v_parent AND NOT r.is_default AND r.lower_time < v_upper AND r.upper_time > v_lower
  ORDER BY r.lower_time LIMIT 1;
  IF FOUND THEN
    IF v_old.lower_time <= v_lower AND v_old.upper_time >= v_upper THEN
      RETURN v_schema || '.' || v_old.partition_name;
    END IF;
    RAISE EXCEPTION 'range % .. % overlaps partition %', v_lower, v_upper, v_old.partition_name
      USING ERRCODE = 'duplicate_table';
  END IF;

  IF v_type = 'uuid'::regtype THEN
    v_lower_text := partitions.uuid7_floor(v_lower)::text;
    v_upper_text := partitions.uuid7_floor(v_upper)::text;
  ELSIF v_type = 'timestamptz'::regtype THEN
    v_lower_text := to_char(v_lower AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS+00');
    v_upper_text := to_char(v_upper AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS+00');
  ELSE
    RAISE EXCEPTION 'partition key type % is not supported', v_type USING ERRCODE = 'feature_not_supported';
  END IF;
  EXECUTE format(
    'CREATE TABLE %I.%I (LIKE %s INCLUDING ALL EXCLUDING INDEXES, '
    'CONSTRAINT part_bound CHECK (%I IS NOT NULL AND %I >= %L AND %I < %L))',
    v_schema, v_name, v_parent, v_key, v_key, v_lower_text, v_key, v_upper_text);
  EXECUTE format('ALTER TABLE %s ATTACH PARTITION %I.%I FOR VALUES FROM (%L) TO (%L)',
                 v_parent, v_schema, v_name, v_lower_text, v_upper_text);
  EXECUTE format('ALTER TABLE %I.%I DROP CONSTRAINT part_bound', v_schema, v_name);
  RETURN v_schema || '.' || v_name;
END $$;

-- What retention has to remove, as statements: the applier runs them one by one outside a transaction, because
-- DETACH .. CONCURRENTLY is refused inside functions.
CREATE FUNCTION partitions.retention_plan(p_table_name text, p_retain_days integer DEFAULT 30)
RETURNS TABLE (partition_name text, upper_time timestamptz, detach_sql text, drop_sql text)
LANGUAGE sql STABLE AS $$
  SELECT r.schema_name || '.' || r.partition_name, r.upper_time,
         format('ALTER TABLE %I.%I DETACH PARTITION %I.%I %s',
                r.schema_name, r.parent_name, r.schema_name, r.partition_name,
                CASE WHEN r.detach_pending THEN 'FINALIZE' WHEN d.has_default THEN '' ELSE 'CONCURRENTLY' END),
         format('DROP TABLE %I.%I', r.schema_name, r.partition_name)
  FROM partitions.ranges r
  CROSS JOIN LATERAL (SELECT EXISTS (
    SELECT FROM partitions.ranges x WHERE x.parent_oid = r.parent_oid AND x.is_default) AS has_default) d
  WHERE r.parent_oid = p_table_name::regclass AND NOT r.is_default
    AND r.upper_time <= (date_trunc('day', now() AT TIME ZONE 'UTC') AT TIME ZONE 'UTC')
                        - make_interval(days => p_retain_days)
  ORDER BY 2
$$;

-- The guide's function: make p_future_days ahead, remove what is older than p_retain_days (NULL keeps all). Removes
-- only where the table's policy says drop; names what it kept in a notice. Returns partitions made plus removed.
CREATE FUNCTION partitions.manage_time_partitions(
  p_table_name text, p_retain_days integer DEFAULT 30, p_future_days integer DEFAULT 7
) RETURNS integer LANGUAGE plpgsql AS $$
DECLARE
  v_parent oid := p_table_name::regclass;
  v_today date := (now() AT TIME ZONE 'UTC')::date;
  v_before bigint; v_after bigint; v_dropped integer := 0; v_row record;
  v_on_expiry text := (
    SELECT p.on_expiry FROM partitions.policies p WHERE to_regclass(p.table_name) = p_table_name::regclass);
BEGIN
  SELECT count(*) INTO v_before FROM partitions.ranges r WHERE r.parent_oid = v_parent;
  FOR i IN 0..p_future_days LOOP
    PERFORM partitions.create_time_partition(p_table_name, v_today + i);
  END LOOP;
  SELECT count(*) INTO v_after FROM partitions.ranges r WHERE r.parent_oid = v_parent;
  IF p_retain_days IS NOT NULL THEN
    FOR v_row IN SELECT * FROM partitions.retention_plan(p_table_name, p_retain_days) LOOP
      IF v_on_expiry = 'drop' THEN
        EXECUTE replace(v_row.detach_sql, ' CONCURRENTLY', '');
        EXECUTE v_row.drop_sql;
        v_dropped := v_dropped + 1;
      ELSE
        RAISE NOTICE 'partition % is out of retention and was kept', v_row.partition_name
          USING HINT = 'archive it, or set on_expiry to drop in partitions.policies';
      END IF;
    END LOOP;
  END IF;
  RETURN (v_after - v_before)::integer + v_dropped;
END $$;

-- Every statement trigger of a parent, made on a leaf too: a parent's statement triggers do not fire for DML on the
-- leaf. Does nothing where the leaf has a trigger of that name.
CREATE FUNCTION partitions.copy_statement_triggers(p_parent regclass, p_leaf regclass) RETURNS integer
LANGUAGE plpgsql AS $$
DECLARE
  v_row record; v_count integer := 0;
  v_parent text := (SELECT format('%I.%I', n.nspname, c.relname)
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = p_parent);
  v_leaf text := (SELECT format('%I.%I', n.nspname, c.relname)
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = p_leaf);
BEGIN
  FOR v_row IN
    SELECT t.tgname, pg_get_triggerdef(t.oid) AS definition FROM pg_trigger t
    WHERE t.tgrelid = p_parent AND NOT t.tgisinternal AND (t.tgtype & 1) = 0
      AND NOT EXISTS (SELECT FROM pg_trigger l WHERE l.tgrelid = p_leaf AND l.tgname = t.tgname)
    ORDER BY t.tgname
  LOOP
    EXECUTE replace(v_row.definition, ' ON ' || v_parent || ' ', ' ON ' || v_leaf || ' ');
    v_count := v_count + 1;
  END LOOP;
  RETURN v_count;
END $$;
