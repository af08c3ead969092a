-- What the server does now, for the admin's pages, `doctor` and /metrics. Views over the statistics: nothing is stored.
-- A role without pg_read_all_stats sees its own sessions' statements only.

CREATE VIEW monitoring.activity AS
SELECT a.pid,
       COALESCE(NULLIF(a.application_name, ''), '(unnamed)') AS application_name,
       a.usename::text AS username,
       a.datname::text AS database_name,
       a.client_addr,
       COALESCE(a.state, '') AS state,
       COALESCE(a.wait_event_type || ': ' || a.wait_event, '') AS waits_for,
       a.backend_start,
       extract(epoch FROM clock_timestamp() - a.xact_start)::float8 AS transaction_seconds,
       extract(epoch FROM clock_timestamp() - CASE a.state WHEN 'active' THEN a.query_start ELSE a.state_change END)::float8
         AS state_seconds,
       cardinality(pg_blocking_pids(a.pid)) AS blockers,
       COALESCE(left(a.query, 2000), '') AS statement
FROM pg_stat_activity a
WHERE a.backend_type = 'client backend' AND a.pid <> pg_backend_pid();

-- Who waits for whom, as a tree written in lines: `position` orders it, `path` names a line for as long as it is true, `depth` 0 blocks others and waits for nobody. A
-- session that waits for two others stands under each; in a deadlock nobody has depth 0, so each of its sessions heads a tree.
CREATE VIEW monitoring.lock_tree AS
WITH RECURSIVE edges AS (
  SELECT a.pid AS waiter, b.pid AS blocker
  FROM pg_stat_activity a CROSS JOIN LATERAL unnest(pg_blocking_pids(a.pid)) AS b (pid)
  WHERE a.wait_event_type = 'Lock'
), heads AS (
  SELECT DISTINCT blocker AS pid FROM edges e
  WHERE NOT EXISTS (SELECT FROM edges w WHERE w.waiter = e.blocker)
     OR EXISTS (SELECT FROM edges w WHERE w.waiter = e.blocker AND w.blocker IN (
          SELECT v.waiter FROM edges v WHERE v.blocker = e.blocker))
), tree AS (
  SELECT pid, ARRAY[pid] AS path FROM heads
  UNION ALL
  SELECT e.waiter, t.path || e.waiter FROM tree t JOIN edges e ON e.blocker = t.pid WHERE e.waiter <> ALL (t.path)
)
SELECT array_to_string(t.path, '/') AS path,
       row_number() OVER (ORDER BY t.path) AS position,
       cardinality(t.path) - 1 AS depth,
       t.pid,
       COALESCE(NULLIF(a.application_name, ''), '(unnamed)') AS application_name,
       COALESCE(a.state, '') AS state,
       extract(epoch FROM clock_timestamp() - l.waitstart)::float8 AS waiting_seconds,
       COALESCE(l.mode, '') AS wants,
       COALESCE(l.relation::regclass::text, l.locktype, '') AS object,
       extract(epoch FROM clock_timestamp() - a.xact_start)::float8 AS transaction_seconds,
       (SELECT count(*) FROM edges e WHERE e.blocker = t.pid)::int AS blocks,
       COALESCE(left(a.query, 2000), '') AS statement
FROM tree t
JOIN pg_stat_activity a ON a.pid = t.pid
LEFT JOIN LATERAL (SELECT * FROM pg_locks k WHERE k.pid = t.pid AND NOT k.granted LIMIT 1) l ON true;

-- One row per table as declared; what its partitions hold is added up. dead_ratio: dead rows per living one. bloat_bytes
-- is an estimate from the planner's row width: pages beyond those that the rows would fill. xid_age: how far the oldest
-- partition is towards wraparound (2 billion); PostgreSQL vacuums by force at autovacuum_freeze_max_age.
CREATE VIEW monitoring.tables AS
WITH RECURSIVE tree AS (
  SELECT c.oid AS leaf, c.oid AS top
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
  WHERE c.relkind IN ('r', 'p', 'm') AND NOT c.relispartition
    AND n.nspname <> 'information_schema' AND n.nspname !~ '^pg_'
  UNION ALL
  SELECT h.inhrelid, t.top FROM tree t JOIN pg_inherits h ON h.inhparent = t.leaf
), widths AS (
  SELECT schemaname, tablename, sum((1 - null_frac) * avg_width) AS width
  FROM pg_stats WHERE NOT inherited GROUP BY schemaname, tablename
), leaves AS (
  SELECT t.top, c.relkind, c.relpages, c.reltuples, pg_total_relation_size(c.oid) AS total_bytes,
         pg_indexes_size(c.oid) AS index_bytes, age(c.relfrozenxid) AS xid_age,
         COALESCE(s.n_live_tup, 0) AS live, COALESCE(s.n_dead_tup, 0) AS dead,
         COALESCE(s.seq_scan, 0) AS seq_scans, COALESCE(s.idx_scan, 0) AS index_scans,
         COALESCE(s.n_tup_upd, 0) AS updated, COALESCE(s.n_tup_hot_upd, 0) AS hot_updated,
         greatest(s.last_vacuum, s.last_autovacuum) AS vacuumed, greatest(s.last_analyze, s.last_autoanalyze) AS analyzed,
         CASE WHEN w.width > 0 AND c.reltuples > 0
              THEN greatest(c.relpages - ceil(c.reltuples * (w.width + 28) / (8168.0 * fill.factor / 100)), 0) * 8192
              ELSE 0 END AS bloat_bytes
  FROM tree t
  JOIN pg_class c ON c.oid = t.leaf
  JOIN pg_namespace m ON m.oid = c.relnamespace
  LEFT JOIN widths w ON w.schemaname = m.nspname AND w.tablename = c.relname
  LEFT JOIN pg_stat_user_tables s ON s.relid = c.oid
  CROSS JOIN LATERAL (SELECT COALESCE((SELECT option_value::numeric FROM pg_options_to_table(c.reloptions)
                                       WHERE option_name = 'fillfactor'), 100) AS factor) fill
)
SELECT l.top::bigint AS table_id,
       n.nspname || '.' || c.relname AS table_name,
       (count(*) FILTER (WHERE l.relkind <> 'p'))::int - CASE WHEN c.relkind = 'p' THEN 0 ELSE 1 END AS partitions,
       sum(l.total_bytes)::bigint AS total_bytes,
       sum(l.index_bytes)::bigint AS index_bytes,
       COALESCE(sum(greatest(l.reltuples, 0)) FILTER (WHERE l.relkind <> 'p'), 0)::bigint AS row_estimate,
       sum(l.dead)::bigint AS dead_rows,
       (sum(l.dead) / greatest(sum(l.live), 1))::float8 AS dead_ratio,
       sum(l.bloat_bytes)::bigint AS bloat_bytes,
       sum(l.seq_scans)::bigint AS sequential_scans,
       sum(l.index_scans)::bigint AS index_scans,
       CASE WHEN sum(l.updated) > 0 THEN (sum(l.hot_updated) / sum(l.updated))::float8 END AS hot_ratio,
       COALESCE(max(l.xid_age) FILTER (WHERE l.relkind <> 'p'), 0)::bigint AS xid_age,
       max(l.vacuumed) AS vacuumed_at,
       max(l.analyzed) AS analyzed_at
FROM leaves l JOIN pg_class c ON c.oid = l.top JOIN pg_namespace n ON n.oid = c.relnamespace
GROUP BY l.top, n.nspname, c.relname, c.relkind;

-- Standbys that stream from here; how far behind each is, in bytes and seconds.
CREATE VIEW monitoring.replicas AS
SELECT pid, application_name, client_addr, state, sync_state,
       pg_wal_lsn_diff(CASE WHEN pg_is_in_recovery() THEN pg_last_wal_receive_lsn() ELSE pg_current_wal_lsn() END, replay_lsn)::bigint
         AS lag_bytes,
       COALESCE(extract(epoch FROM replay_lag), 0)::float8 AS lag_seconds
FROM pg_stat_replication;

-- What a slot keeps from being removed; one that nobody reads fills the disk.
CREATE VIEW monitoring.replication_slots AS
SELECT slot_name::text, slot_type, active AS is_active, COALESCE(wal_status, '') AS wal_status,
       COALESCE(pg_wal_lsn_diff(CASE WHEN pg_is_in_recovery() THEN pg_last_wal_receive_lsn() ELSE pg_current_wal_lsn() END,
                                restart_lsn), 0)::bigint AS retained_bytes
FROM pg_replication_slots;

-- pg_stat_statements of this database, by the time they took; no row where it is not installed or not preloaded.
CREATE FUNCTION monitoring.read_statements(max_rows integer DEFAULT 1000)
RETURNS TABLE (query_id bigint, calls bigint, total_ms double precision, mean_ms double precision, max_ms double precision,
               rows_per_call double precision, cache_hit_ratio double precision, wal_bytes bigint, statement text)
LANGUAGE plpgsql STABLE AS $$
DECLARE
  v_statements text := (
    SELECT quote_ident(n.nspname) || '.pg_stat_statements'
    FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace WHERE e.extname = 'pg_stat_statements');
BEGIN
  IF v_statements IS NULL THEN
    RETURN;
  END IF;
  RETURN QUERY EXECUTE format($q$
    SELECT queryid, sum(calls)::bigint, sum(total_exec_time), sum(total_exec_time) / greatest(sum(calls), 1),
           max(max_exec_time), (sum(rows) / greatest(sum(calls), 1))::float8,
           (sum(shared_blks_hit) / NULLIF(sum(shared_blks_hit + shared_blks_read), 0))::float8,
           sum(pg_stat_statements.wal_bytes)::bigint, left(min(query), 2000)
    FROM %s AS pg_stat_statements
    WHERE dbid = (SELECT oid FROM pg_database WHERE datname = current_database()) AND queryid IS NOT NULL
    GROUP BY queryid ORDER BY 3 DESC LIMIT $1
  $q$, v_statements) USING max_rows;
EXCEPTION WHEN object_not_in_prerequisite_state THEN
  RETURN;
END $$;
CREATE VIEW monitoring.statements AS SELECT * FROM monitoring.read_statements();

-- The guide's index statistics as rows for the admin.
CREATE VIEW monitoring.indexes AS
SELECT c.oid::bigint AS index_id, u.*
FROM monitoring.analyze_index_usage() u
JOIN pg_namespace n ON n.nspname = u.schema_name
JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = u.index_name;

-- Figures of the whole server in one row. Checkpoints moved to a view of their own in PostgreSQL 17.
CREATE FUNCTION monitoring.read_server()
RETURNS TABLE (cache_hit_ratio double precision, oldest_transaction_seconds double precision, xid_age bigint,
               xid_limit bigint, wal_bytes bigint, checkpoints_timed bigint, checkpoints_requested bigint,
               deadlocks bigint, temporary_bytes bigint, is_replica boolean)
LANGUAGE plpgsql STABLE AS $$
BEGIN
  IF current_setting('server_version_num')::int >= 170000 THEN
    EXECUTE 'SELECT num_timed, num_requested FROM pg_stat_checkpointer' INTO checkpoints_timed, checkpoints_requested;
  ELSE
    EXECUTE 'SELECT checkpoints_timed, checkpoints_req FROM pg_stat_bgwriter' INTO checkpoints_timed, checkpoints_requested;
  END IF;
  SELECT (d.blks_hit::float8 / NULLIF(d.blks_hit + d.blks_read, 0)), d.deadlocks, d.temp_bytes
  INTO cache_hit_ratio, deadlocks, temporary_bytes
  FROM pg_stat_database d WHERE d.datname = current_database();
  SELECT COALESCE(max(extract(epoch FROM clock_timestamp() - a.xact_start)), 0) INTO oldest_transaction_seconds
  FROM pg_stat_activity a WHERE a.backend_type = 'client backend' AND a.pid <> pg_backend_pid();
  SELECT max(age(datfrozenxid)) INTO xid_age FROM pg_database;
  SELECT w.wal_bytes::bigint INTO wal_bytes FROM pg_stat_wal w;
  xid_limit := current_setting('autovacuum_freeze_max_age')::bigint;
  is_replica := pg_is_in_recovery();
  RETURN NEXT;
END $$;
