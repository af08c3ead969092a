DROP FUNCTION recovery.validate_recovery_readiness(text, timestamptz);
DROP FUNCTION recovery.needed_segments(integer, bigint, bigint);
DROP FUNCTION recovery.newest_timeline(integer, bigint);
DROP FUNCTION recovery.timeline_path(integer, integer);

CREATE OR REPLACE FUNCTION recovery.prepare_pitr(p_target_time timestamptz, p_backup_location text) RETURNS text
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
