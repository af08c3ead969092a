-- Guide 14.2 again, over the catalogue: it works for every store and for a role that reads no files.
DROP FUNCTION recovery.validate_recovery_readiness(text, timestamptz, text);

-- The timelines that lead from p_from to p_to, the last first; `until_lsn` is where the next one left, NULL for p_to.
-- Without a row of p_from, p_to does not descend from it.
CREATE FUNCTION recovery.timeline_path(p_from integer, p_to integer)
RETURNS TABLE (timeline integer, until_lsn bigint) LANGUAGE sql STABLE AS $$
  WITH RECURSIVE path (timeline, until_lsn) AS (
    SELECT p_to, NULL::bigint
    UNION ALL
    SELECT t.parent, t.switch_lsn FROM path p JOIN recovery.timelines t ON t.timeline = p.timeline
    WHERE p.timeline > p_from
  )
  SELECT p.timeline, p.until_lsn FROM path p WHERE p.timeline >= p_from
$$;

-- The newest timeline that goes on from position p_lsn of timeline p_from; p_from itself where no other does.
CREATE FUNCTION recovery.newest_timeline(p_from integer, p_lsn bigint) RETURNS integer LANGUAGE sql STABLE AS $$
  SELECT COALESCE(max(t.timeline), p_from) FROM recovery.timelines t
  WHERE t.timeline > p_from AND EXISTS (
    SELECT FROM recovery.timeline_path(p_from, t.timeline) p
    WHERE p.timeline = p_from AND p.until_lsn >= p_lsn)
$$;

-- The segments that replay from p_lsn of p_from along the newest timeline needs, as far as anything is archived, each
-- with what is wrong with it (NULL: nothing). A segment that two timelines share is read from the newer one.
CREATE FUNCTION recovery.needed_segments(p_from integer, p_lsn bigint, p_segment_bytes bigint)
RETURNS TABLE (timeline integer, number bigint, problem text, last_commit_at timestamptz)
LANGUAGE sql STABLE AS $$
  WITH path AS (
    SELECT p.timeline, p.until_lsn / p_segment_bytes AS until_number,
           COALESCE(lead(p.until_lsn) OVER (ORDER BY p.timeline DESC), p_lsn) / p_segment_bytes AS from_number
    FROM recovery.timeline_path(p_from, recovery.newest_timeline(p_from, p_lsn)) p
  ), spans AS (
    SELECT p.timeline, p.from_number,
           COALESCE(p.until_number - 1,
                    (SELECT max(s.number) FROM recovery.wal_segments s WHERE s.timeline = p.timeline)) AS last_number
    FROM path p
  )
  SELECT s.timeline, n.number, CASE WHEN w.name IS NULL THEN 'missing' ELSE w.problem END, w.last_commit_at
  FROM spans s
  CROSS JOIN LATERAL generate_series(s.from_number, s.last_number) AS n (number)
  LEFT JOIN recovery.wal_segments w ON w.timeline = s.timeline AND w.number = n.number
  ORDER BY n.number
$$;

-- Would a restore to p_target_time work? Four rows: base_backup_exists, manifest, wal_continuity, target_time_feasible;
-- PASS, WARN or FAIL. p_backup_path is the backup's id, its location in the catalogue or a path that ends so; '' or
-- NULL: the newest backup that ended before the target. WAL is judged by what the continuity job saw (each minute):
-- WARN with its age when that is long ago.
CREATE FUNCTION recovery.validate_recovery_readiness(p_backup_path text, p_target_time timestamptz)
RETURNS TABLE (check_name text, status text, message text) LANGUAGE plpgsql STABLE AS $$
DECLARE
  v_path text := regexp_replace(COALESCE(p_backup_path, ''), '(/data)?/*$', '');
  v_backup recovery.backups; v_state recovery.archive_state;
  v_bad text; v_first_bad bigint; v_count bigint; v_commit timestamptz; v_age interval; v_stale text := '';
BEGIN
  SELECT b.* INTO v_backup FROM recovery.backups b
  WHERE b.kind IN ('base', 'incremental') AND b.completed_at IS NOT NULL AND CASE
    WHEN v_path = '' THEN b.status IN ('complete', 'verified') AND b.completed_at <= p_target_time
    ELSE b.backup_id::text = v_path OR v_path = b.location OR v_path LIKE '%/' || b.location END
  ORDER BY b.completed_at DESC LIMIT 1;
  IF v_backup.backup_id IS NULL THEN
    RETURN QUERY SELECT c, 'FAIL', CASE WHEN v_path = '' THEN 'no base backup ended before ' || p_target_time
      ELSE 'the catalogue has no finished base backup at ' || v_path END
    FROM unnest(ARRAY['base_backup_exists', 'manifest', 'wal_continuity', 'target_time_feasible']) c;
    RETURN;
  END IF;
  RETURN QUERY SELECT 'base_backup_exists', CASE WHEN v_backup.status = 'damaged' THEN 'FAIL' ELSE 'PASS' END,
    format('%s backup %s, ended %s, %s bytes%s', v_backup.kind, v_backup.backup_id, v_backup.completed_at,
           v_backup.size_bytes, CASE WHEN v_backup.status = 'damaged' THEN ': ' || v_backup.error ELSE '' END);
  RETURN QUERY SELECT 'manifest', CASE v_backup.status WHEN 'verified' THEN 'PASS' WHEN 'damaged' THEN 'FAIL' ELSE 'WARN' END,
    CASE v_backup.status WHEN 'verified' THEN 'restored and compared at ' || v_backup.verified_at
      WHEN 'damaged' THEN v_backup.error ELSE 'its files were checked when it was made, it was never restored' END;

  SELECT s.* INTO v_state FROM recovery.archive_state s WHERE s.system_identifier = v_backup.system_identifier;
  IF v_state.system_identifier IS NULL THEN
    RETURN QUERY SELECT c, 'FAIL', 'nothing is known of this server''s WAL archive: is it switched on, and beat running?'
    FROM unnest(ARRAY['wal_continuity', 'target_time_feasible']) c;
    RETURN;
  END IF;
  v_age := now() - v_state.checked_at;
  IF v_age > interval '5 minutes' THEN
    v_stale := format('; the archive was last looked at %s ago', date_trunc('second', v_age));
  END IF;

  SELECT count(*), count(*) FILTER (WHERE n.problem IS NOT NULL), min(n.number) FILTER (WHERE n.problem IS NOT NULL)
    INTO v_count, v_bad, v_first_bad
  FROM recovery.needed_segments(v_backup.timeline, v_backup.start_lsn, v_state.segment_bytes) n;
  RETURN QUERY SELECT 'wal_continuity',
    CASE WHEN v_count = 0 OR v_first_bad IS NOT NULL THEN 'FAIL' WHEN v_stale <> '' THEN 'WARN' ELSE 'PASS' END,
    format('%s segments since the backup began, %s missing or damaged%s', v_count, v_bad, v_stale);

  SELECT max(n.last_commit_at) INTO v_commit
  FROM recovery.needed_segments(v_backup.timeline, v_backup.start_lsn, v_state.segment_bytes) n
  WHERE v_first_bad IS NULL OR n.number < v_first_bad;
  RETURN QUERY SELECT 'target_time_feasible',
    CASE WHEN p_target_time IS NULL OR p_target_time > now() OR p_target_time < v_backup.completed_at
           OR v_commit IS NULL OR v_commit < p_target_time THEN 'FAIL'
         WHEN v_stale <> '' THEN 'WARN' ELSE 'PASS' END,
    CASE WHEN p_target_time > now() THEN 'the target is in the future'
         WHEN p_target_time < v_backup.completed_at
           THEN format('the target is before the backup''s end (%s): choose an older backup', v_backup.completed_at)
         ELSE format('reachable from %s to %s%s', v_backup.completed_at,
                     COALESCE(v_commit::text, 'nowhere: no commit since is archived'), v_stale) END;
END $$;

-- Settings for a restored copy that stops at p_target_time. Only recovery settings: memory and logging stay the
-- server's own. It pauses there, so that a person looks before history is decided. p_backup_location is the backup
-- folder as the restored server sees it; its bin/wal_archive.py fetches WAL, and stops recovery at a damaged file.
-- The location ends up in a shell command, hence only plain characters.
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
# generated %1$s
restore_command = 'python3 -IS "%2$s/bin/wal_archive.py" get "%%f" "%%p" "%2$s"'
recovery_target_time = '%3$s'
recovery_target_timeline = 'latest'
recovery_target_action = 'pause'      # look first, then SELECT pg_wal_replay_resume()
hot_standby = on
archive_mode = off                    # never archive over the original; on again, to a new place, after promotion
$c$, now(), p_backup_location, p_target_time);
END $$;
