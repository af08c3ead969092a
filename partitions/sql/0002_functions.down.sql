DROP FUNCTION partitions.refuse_write() CASCADE;  -- with its triggers on what was brought back
DROP FUNCTION partitions.checksum_of(regclass, text[]);
CREATE OR REPLACE FUNCTION partitions.manage_time_partitions(
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

CREATE OR REPLACE FUNCTION partitions.create_time_partition(
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

CREATE OR REPLACE VIEW partitions.ranges AS
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

DROP FUNCTION partitions.create_range_partition(text, timestamptz, timestamptz);
DROP FUNCTION partitions.move_from_default(regclass, text, text);
DROP FUNCTION partitions.attach_leaf(regclass, regclass, text, text);
DROP FUNCTION partitions.lock_for_attach(regclass, text);
DROP FUNCTION partitions.create_leaf(regclass, text, text, text);
DROP FUNCTION partitions.bound_text(regclass, timestamptz);
DROP FUNCTION partitions.key_of(regclass);
