-- Guide 14.2 and 14.4, as corrected.

-- Settings for a restored copy that stops at p_target_time. Only recovery settings: memory and logging stay the
-- server's own. It pauses there, so that a person looks before history is decided. The location ends up in a shell
-- command, hence only plain characters.
CREATE FUNCTION recovery.prepare_pitr(p_target_time timestamptz, p_backup_location text) RETURNS text
LANGUAGE plpgsql STABLE AS $$
BEGIN
  IF p_target_time IS NULL OR p_target_time > now() THEN
    RAISE EXCEPTION 'recovery target % is not in the past', COALESCE(p_target_time::text, 'NULL')
      USING ERRCODE = 'invalid_parameter_value';
  END IF;
  IF p_backup_location IS NULL OR p_backup_location !~ '^[A-Za-z0-9._/ -]+$' THEN
    RAISE EXCEPTION 'backup location % has characters that a shell could read as a command',
      quote_nullable(p_backup_location) USING ERRCODE = 'invalid_parameter_value';
  END IF;
  RETURN format($c$# append to postgresql.auto.conf of the restored copy, then create an empty file recovery.signal
# generated %s
restore_command = 'cp "%s/wal/%%f" "%%p"'
recovery_target_time = '%s'
recovery_target_timeline = 'latest'
recovery_target_action = 'pause'      # look first, then SELECT pg_wal_replay_resume()
hot_standby = on
archive_mode = off                    # never archive over the original; on again, to a new place, after promotion
$c$, now(), p_backup_location, p_target_time);
END $$;

-- Can p_backup_path (a directory of the server, made by pg_basebackup) be restored to p_target_time from the WAL
-- archive p_wal_path (NULL: ../../wal)? Four rows: base_backup_exists, manifest, wal_continuity,
-- target_time_feasible; PASS or FAIL. Without a manifest the last two say FAIL. The last reachable moment is the time
-- of the newest segment's file: a bound, not a proof. Needs pg_read_server_files.
CREATE FUNCTION recovery.validate_recovery_readiness(
  p_backup_path text, p_target_time timestamptz, p_wal_path text DEFAULT NULL
) RETURNS TABLE (check_name text, status text, message text) LANGUAGE plpgsql AS $$
DECLARE
  v_wal text := COALESCE(p_wal_path, p_backup_path || '/../../wal');
  v_segment bigint := pg_size_bytes(current_setting('wal_segment_size'));
  v_per_log bigint := 4294967296 / v_segment;
  v_base text; v_size bigint; v_manifest jsonb; v_end timestamptz;
  v_timeline int; v_first numeric; v_last numeric; v_have bigint; v_latest timestamptz;
BEGIN
  FOREACH v_base IN ARRAY ARRAY['base.tar', 'base.tar.gz', 'base.tar.lz4', 'base.tar.zst', 'PG_VERSION'] LOOP
    v_size := (pg_stat_file(p_backup_path || '/' || v_base, true)).size;
    EXIT WHEN v_size IS NOT NULL;
  END LOOP;
  RETURN QUERY SELECT 'base_backup_exists', CASE WHEN v_size > 0 THEN 'PASS' ELSE 'FAIL' END,
    CASE WHEN v_size IS NULL THEN 'no base backup under ' || p_backup_path
         ELSE v_base || ' has ' || v_size || ' bytes' END;

  v_end := (pg_stat_file(p_backup_path || '/backup_manifest', true)).modification;
  IF v_end IS NULL THEN
    RETURN QUERY SELECT c, 'FAIL', 'no backup_manifest under ' || p_backup_path
      FROM unnest(ARRAY['manifest', 'wal_continuity', 'target_time_feasible']) c;
    RETURN;
  END IF;
  v_manifest := pg_read_file(p_backup_path || '/backup_manifest')::jsonb;
  RETURN QUERY SELECT 'manifest', 'PASS',
    jsonb_array_length(v_manifest -> 'Files') || ' files listed (pg_verifybackup compares their checksums)';

  SELECT (w ->> 'Timeline')::int, floor(((w ->> 'Start-LSN')::pg_lsn - '0/0') / v_segment)
    INTO v_timeline, v_first
  FROM jsonb_array_elements(v_manifest -> 'WAL-Ranges') w ORDER BY (w ->> 'Start-LSN')::pg_lsn LIMIT 1;
  SELECT count(*), max(number), max(modified) INTO v_have, v_last, v_latest
  FROM (
    SELECT ('x' || substr(f, 9, 8))::bit(32)::bigint::numeric * v_per_log
             + ('x' || substr(f, 17, 8))::bit(32)::bigint AS number,
           (pg_stat_file(v_wal || '/' || f)).modification AS modified
    FROM pg_ls_dir(v_wal, true, false) f
    WHERE f ~ ('^' || lpad(upper(to_hex(v_timeline)), 8, '0') || '[0-9A-F]{16}$')) segments
  WHERE number >= v_first;
  RETURN QUERY SELECT 'wal_continuity',
    CASE WHEN v_have > 0 AND v_have = v_last - v_first + 1 THEN 'PASS' ELSE 'FAIL' END,
    format('timeline %s: %s of %s segments archived since the backup began',
           v_timeline, v_have, COALESCE(v_last - v_first + 1, 0));
  RETURN QUERY SELECT 'target_time_feasible',
    CASE WHEN p_target_time BETWEEN v_end AND COALESCE(v_latest, v_end) THEN 'PASS' ELSE 'FAIL' END,
    format('reachable from %s to %s', v_end, COALESCE(v_latest::text, 'nowhere: nothing is archived'));
END $$;

-- The guide's arguments, then when the drill began and what went wrong. 'running' has no end yet.
CREATE FUNCTION recovery.record_test_result(
  p_test_type text, p_backup_timestamp timestamptz, p_recovery_target timestamptz DEFAULT NULL,
  p_test_status text DEFAULT 'passed', p_data_verified boolean DEFAULT NULL,
  p_performance_metrics jsonb DEFAULT '{}', p_notes text DEFAULT NULL,
  p_started_at timestamptz DEFAULT now(), p_errors text[] DEFAULT NULL
) RETURNS uuid LANGUAGE sql AS $$
  INSERT INTO recovery.test_results (
    test_type, backup_timestamp, recovery_target, test_started_at, test_completed_at, test_status,
    data_verification_passed, performance_metrics, notes, error_messages)
  VALUES (
    p_test_type, p_backup_timestamp, p_recovery_target, p_started_at,
    CASE WHEN p_test_status <> 'running' THEN clock_timestamp() END, p_test_status,
    p_data_verified, p_performance_metrics, p_notes, p_errors)
  RETURNING test_id
$$;

-- Count the rows of p_table that break one of its foreign keys or checks, and name its invalid indexes.
-- Constraints that only leaves have (coninhcount = 0) are looked at on the leaf.
CREATE FUNCTION recovery.broken_constraints(p_table regclass) RETURNS text[] LANGUAGE plpgsql STABLE AS $$
DECLARE
  v_row record; v_bad bigint; v_issues text[] := '{}';
BEGIN
  FOR v_row IN
    SELECT k.conname, n.nspname, c.relname, format('%I.%I', fn.nspname, f.relname) AS target,
           string_agg(format('c.%I IS NOT NULL', ca.attname), ' AND ') AS is_set,
           string_agg(format('p.%I = c.%I', pa.attname, ca.attname), ' AND ') AS is_met
    FROM pg_constraint k
    JOIN pg_class c ON c.oid = k.conrelid JOIN pg_namespace n ON n.oid = c.relnamespace
    JOIN pg_class f ON f.oid = k.confrelid JOIN pg_namespace fn ON fn.oid = f.relnamespace
    CROSS JOIN LATERAL unnest(k.conkey, k.confkey) AS u (child, parent)
    JOIN pg_attribute ca ON ca.attrelid = k.conrelid AND ca.attnum = u.child
    JOIN pg_attribute pa ON pa.attrelid = k.confrelid AND pa.attnum = u.parent
    WHERE k.conrelid = p_table AND k.contype = 'f' AND k.conparentid = 0
    GROUP BY k.oid, k.conname, n.nspname, c.relname, fn.nspname, f.relname
  LOOP
    EXECUTE format('SELECT count(*) FROM %I.%I c WHERE %s AND NOT EXISTS (SELECT FROM %s p WHERE %s)',
                   v_row.nspname, v_row.relname, v_row.is_set, v_row.target, v_row.is_met) INTO v_bad;
    IF v_bad > 0 THEN
      v_issues := v_issues || format('%s rows break %s -> %s', v_bad, v_row.conname, v_row.target);
    END IF;
  END LOOP;
  FOR v_row IN
    SELECT DISTINCT n.nspname, c.relname, k.conname, pg_get_expr(k.conbin, k.conrelid) AS expression
    FROM pg_constraint k JOIN pg_class c ON c.oid = k.conrelid JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE k.contype = 'c' AND (k.conrelid = p_table OR (
      k.coninhcount = 0 AND k.conrelid IN (SELECT relid FROM pg_partition_tree(p_table))))
  LOOP
    EXECUTE format('SELECT count(*) FROM %I.%I WHERE NOT (%s)', v_row.nspname, v_row.relname, v_row.expression)
      INTO v_bad;
    IF v_bad > 0 THEN
      v_issues := v_issues || format('%s rows break check %s', v_bad, v_row.conname);
    END IF;
  END LOOP;
  FOR v_row IN
    SELECT i.indexrelid::regclass::text AS name FROM pg_index i
    WHERE NOT i.indisvalid
      AND (i.indrelid = p_table OR i.indrelid IN (SELECT relid FROM pg_partition_tree(p_table)))
  LOOP
    v_issues := v_issues || format('index %s is not valid', v_row.name);
  END LOOP;
  RETURN v_issues;
END $$;

-- What must hold beyond constraints: each query counts the rows that break it.
CREATE VIEW recovery.consistency_rules AS
SELECT * FROM (VALUES
  ('agents.state', 'values do not match their checksum',
   'SELECT count(*) FROM agents.state WHERE checksum IS DISTINCT FROM public.text_sha256(state_value::text)'),
  ('agents.registry', 'agents are their own ancestor',
   'WITH RECURSIVE up AS (
      SELECT agent_id AS start, parent_agent_id AS above FROM agents.registry WHERE parent_agent_id IS NOT NULL
      UNION
      SELECT u.start, r.parent_agent_id FROM up u JOIN agents.registry r ON r.agent_id = u.above
      WHERE u.above <> u.start)
    SELECT count(DISTINCT start) FROM up WHERE above = start'),
  ('tasks.queue', 'tasks have no identity',
   'SELECT count(*) FROM tasks.queue q WHERE NOT EXISTS (
      SELECT FROM tasks.identity i WHERE i.task_id = q.task_id AND i.task_type = q.task_type)'),
  ('tasks.identity', 'identities have no task',
   'SELECT count(*) FROM tasks.identity i WHERE NOT EXISTS (
      SELECT FROM tasks.queue q WHERE q.task_id = i.task_id AND q.task_type = i.task_type)'),
  ('tasks.executions', 'open executions of finished tasks',
   'SELECT count(*) FROM tasks.executions e
    JOIN tasks.identity i ON i.task_id = e.task_id
    JOIN tasks.queue q ON q.task_id = i.task_id AND q.task_type = i.task_type
    WHERE e.completed_at IS NULL AND q.completed_at IS NOT NULL'),
  ('messages.deliveries', 'deliveries without a message although its partition is there',
   'SELECT count(*) FROM messages.deliveries d
    WHERE NOT EXISTS (SELECT FROM messages.log m WHERE m.message_id = d.message_id)
      AND EXISTS (SELECT FROM partitions.ranges r
        WHERE r.parent_oid = ''messages.log''::regclass
          AND partitions.uuid7_time(d.message_id) >= r.lower_time
          AND partitions.uuid7_time(d.message_id) < r.upper_time)'),
  ('knowledge.embeddings', 'embeddings do not match their text',
   'SELECT count(*) FROM knowledge.embeddings WHERE content_hash IS DISTINCT FROM public.text_sha256(text_content)')
) AS rules (table_name, broken, query);

-- One row per table as declared, its partitions counted through it: PASS or ISSUES_FOUND with the issues. Every
-- foreign key is looked at by anti-join, every CHECK evaluated again, then the rules above. Reads everything: run it
-- on a restored copy. A row with consistency_check INFO tells of something worth knowing that is no fault.
CREATE FUNCTION recovery.verify_data_consistency()
RETURNS TABLE (table_name text, record_count bigint, consistency_check text, issues_found text[])
LANGUAGE plpgsql AS $$
DECLARE
  v_table record; v_rule record; v_bad bigint;
BEGIN
  FOR v_table IN
    SELECT c.oid, n.nspname, c.relname, n.nspname || '.' || c.relname AS name
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE n.nspname IN ('agents', 'tasks', 'messages', 'sessions', 'knowledge')
      AND c.relkind IN ('r', 'p') AND NOT c.relispartition
    ORDER BY 2, 3
  LOOP
    table_name := v_table.name;
    EXECUTE format('SELECT count(*) FROM %I.%I', v_table.nspname, v_table.relname) INTO record_count;
    issues_found := recovery.broken_constraints(v_table.oid);
    FOR v_rule IN SELECT r.broken, r.query FROM recovery.consistency_rules r WHERE r.table_name = v_table.name LOOP
      EXECUTE v_rule.query INTO v_bad;
      IF v_bad > 0 THEN
        issues_found := issues_found || format('%s %s', v_bad, v_rule.broken);
      END IF;
    END LOOP;
    consistency_check := CASE WHEN cardinality(issues_found) = 0 THEN 'PASS' ELSE 'ISSUES_FOUND' END;
    RETURN NEXT;
  END LOOP;

  -- history outlives its task: only told
  SELECT count(*) INTO v_bad FROM tasks.executions e
  WHERE NOT EXISTS (SELECT FROM tasks.identity i WHERE i.task_id = e.task_id)
    AND partitions.uuid7_time(e.task_id) > now() - make_interval(days => COALESCE(
      (SELECT p.keep_days FROM partitions.policies p WHERE p.table_name = 'tasks.executions'), 30));
  IF v_bad > 0 THEN
    table_name := 'tasks.executions';
    record_count := v_bad;
    consistency_check := 'INFO';
    issues_found := ARRAY[format('%s executions whose task is gone though younger than retention', v_bad)];
    RETURN NEXT;
  END IF;
END $$;
