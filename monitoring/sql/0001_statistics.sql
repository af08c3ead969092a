-- Guide 12.2 and 13.3, as corrected. pg_stat_statements is used where the server has it.
DO $do$
BEGIN
  IF EXISTS (SELECT FROM pg_available_extensions WHERE name = 'pg_stat_statements') THEN
    CREATE EXTENSION IF NOT EXISTS pg_stat_statements;
  ELSE
    RAISE NOTICE 'pg_stat_statements is not available: monitoring.suggest_missing_indexes() will find nothing';
  END IF;
EXCEPTION WHEN insufficient_privilege THEN
  RAISE NOTICE 'pg_stat_statements is left out: %', SQLERRM
    USING HINT = 'let a superuser run CREATE EXTENSION pg_stat_statements in this database';
END $do$;

-- who is connected; the statistics' own workers are not
CREATE VIEW monitoring.connection_stats AS
SELECT datname AS database_name,
       usename AS username,
       application_name,
       client_addr,
       client_hostname,
       state,
       count(*) AS connection_count,
       min(backend_start) AS oldest_connection,
       max(backend_start) AS newest_connection,
       avg(extract(epoch FROM now() - backend_start)) AS avg_connection_age_seconds,
       max(extract(epoch FROM now() - xact_start)) AS longest_transaction_seconds
FROM pg_stat_activity
WHERE datname = current_database() AND backend_type = 'client backend'
GROUP BY datname, usename, application_name, client_addr, client_hostname, state
ORDER BY connection_count DESC;

-- One row per pool (application_name) of this database, and first one named (server) over all databases, for
-- max_connections is the server's. The session that asks is not counted as load.
CREATE FUNCTION monitoring.check_connection_pool_health()
RETURNS TABLE (
  pool_name text, total_connections integer, active_connections integer, idle_connections integer,
  idle_in_transaction integer, max_connections integer, health_status text, recommendations text[]
) LANGUAGE sql STABLE AS $$
  WITH limits AS (
    SELECT current_setting('max_connections')::int AS cap,
           current_setting('max_connections')::int - current_setting('superuser_reserved_connections')::int
             - COALESCE(current_setting('reserved_connections', true)::int, 0) AS usable,
           (SELECT count(*)::int FROM pg_stat_activity WHERE backend_type = 'client backend') AS used
  ), others AS (
    SELECT COALESCE(NULLIF(application_name, ''), '(unnamed)') AS pool,
           datname = current_database() AS is_here,
           state,
           state LIKE 'idle in transaction%' AS is_open,
           -- a dump holds its snapshot open for as long as it takes
           state LIKE 'idle in transaction%' AND now() - state_change > interval '1 minute'
             AND application_name !~ '^mistersmith (backup|restore|recovery)$' AS is_stuck,
           COALESCE(wait_event_type = 'Lock', false) AS is_waiting
    FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()
  ), pools AS (
    SELECT pool, count(*)::int AS total,
           (count(*) FILTER (WHERE state = 'active'))::int AS active, (count(*) FILTER (WHERE state = 'idle'))::int AS idle,
           (count(*) FILTER (WHERE is_open))::int AS open, (count(*) FILTER (WHERE is_stuck))::int AS stuck,
           (count(*) FILTER (WHERE is_waiting))::int AS waiting
    FROM others WHERE is_here GROUP BY pool
    UNION ALL
    SELECT '(server)', (SELECT used FROM limits),
           (count(*) FILTER (WHERE state = 'active'))::int, (count(*) FILTER (WHERE state = 'idle'))::int,
           (count(*) FILTER (WHERE is_open))::int, (count(*) FILTER (WHERE is_stuck))::int,
           (count(*) FILTER (WHERE is_waiting))::int
    FROM others
  )
  SELECT p.pool, p.total, p.active, p.idle, p.open, l.cap,
         CASE
           WHEN l.used > l.usable * 0.9 OR p.stuck > 5 THEN 'critical'
           WHEN l.used > l.usable * 0.8 OR p.stuck > 0 OR p.waiting > 5 THEN 'warning'
           ELSE 'healthy'
         END,
         array_remove(ARRAY[
           CASE WHEN l.used > l.usable * 0.8
                THEN format('server uses %s of %s usable connections', l.used, l.usable) END,
           CASE WHEN p.stuck > 0 THEN format('%s sessions idle in transaction for over a minute', p.stuck) END,
           CASE WHEN p.waiting > 0 THEN format('%s sessions wait for a lock', p.waiting) END,
           CASE WHEN p.total >= 5 AND p.active > p.total * 0.7
                THEN 'high ratio of active connections - consider scaling the pool' END], NULL)
  FROM pools p CROSS JOIN limits l
  ORDER BY p.pool = '(server)' DESC, p.total DESC
$$;

-- One row per index as declared: what its partitions' indexes did is added up. An index is redundant when another one
-- on the same table begins with the same columns, classes and directions and leaves out no row that it holds.
CREATE FUNCTION monitoring.analyze_index_usage()
RETURNS TABLE (
  schema_name text, table_name text, index_name text, index_size text, index_scans bigint,
  tuples_read bigint, tuples_fetched bigint, usage_ratio numeric, recommendation text
) LANGUAGE sql STABLE AS $$
  WITH RECURSIVE tree AS (
    SELECT i.indexrelid AS leaf, i.indexrelid AS top
    FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE NOT EXISTS (SELECT FROM pg_inherits h WHERE h.inhrelid = i.indexrelid)
      AND n.nspname <> 'information_schema' AND n.nspname !~ '^pg_'
    UNION ALL
    SELECT h.inhrelid, t.top FROM tree t JOIN pg_inherits h ON h.inhparent = t.leaf
  ), usage AS (
    SELECT t.top,
           sum(pg_relation_size(t.leaf))::bigint AS bytes,
           COALESCE(sum(s.idx_scan), 0)::bigint AS scans,
           COALESCE(sum(s.idx_tup_read), 0)::bigint AS reads,
           COALESCE(sum(s.idx_tup_fetch), 0)::bigint AS fetches
    FROM tree t LEFT JOIN pg_stat_user_indexes s ON s.indexrelid = t.leaf
    GROUP BY t.top
  ), declared AS (
    SELECT u.*, c.relname::text AS name, c.relam, x.indrelid, x.indisunique, x.indisprimary, x.indisvalid,
           x.indkey, x.indexprs, x.indnkeyatts AS width,
           string_to_array(x.indkey::text, ' ') AS columns,
           string_to_array(x.indclass::text, ' ') AS classes,
           string_to_array(x.indoption::text, ' ') AS directions,
           pg_get_expr(x.indpred, x.indrelid) AS predicate
    FROM usage u JOIN pg_index x ON x.indexrelid = u.top JOIN pg_class c ON c.oid = u.top
  )
  SELECT n.nspname::text, t.relname::text, d.name, pg_size_pretty(d.bytes), d.scans, d.reads, d.fetches,
         COALESCE(round(d.fetches::numeric / NULLIF(d.reads, 0) * 100, 2), 0),
         CASE
           WHEN NOT d.indisvalid THEN 'Invalid - drop and build again'
           WHEN twin.name IS NOT NULL THEN 'Redundant - covered by ' || twin.name
           WHEN d.indisprimary OR d.indisunique THEN 'Keep - enforces uniqueness'
           WHEN fk.name IS NOT NULL AND d.scans = 0 THEN 'Keep - serves foreign key ' || fk.name
           WHEN d.scans = 0 THEN 'Consider dropping - not used since ' || COALESCE(
             (SELECT stats_reset::text FROM pg_stat_database WHERE datname = current_database()),
             'the statistics began')
           WHEN d.scans < 100 THEN 'Low usage - review necessity'
           ELSE 'In use'
         END
  FROM declared d
  JOIN pg_class t ON t.oid = d.indrelid
  JOIN pg_namespace n ON n.oid = t.relnamespace
  LEFT JOIN LATERAL (
    SELECT e.name FROM declared e
    WHERE e.indrelid = d.indrelid AND e.top <> d.top AND e.relam = d.relam
      AND NOT d.indisunique AND d.indexprs IS NULL AND e.indexprs IS NULL AND e.indisvalid
      AND e.predicate IS NOT DISTINCT FROM d.predicate -- a partial index holds fewer rows: it serves what the whole one does not
      AND e.width >= d.width
      AND e.columns[1:d.width] = d.columns[1:d.width]
      AND e.classes[1:d.width] = d.classes[1:d.width]
      AND e.directions[1:d.width] = d.directions[1:d.width]
      AND (e.width > d.width OR e.indisunique OR e.top < d.top)
    ORDER BY e.width LIMIT 1) twin ON true
  LEFT JOIN LATERAL (
    SELECT k.conname::text AS name FROM pg_constraint k
    WHERE k.contype = 'f' AND k.conrelid = d.indrelid AND k.conkey[1] = d.indkey[0] LIMIT 1) fk ON true
  ORDER BY d.scans, d.bytes DESC
$$;

-- Columns that statements filter on and no index begins with: big tables with sequential scans, crossed with the
-- predicates in pg_stat_statements and the selectivity in pg_stats. A heuristic: it reads normalised text. Nothing is
-- found, and a notice says so, where pg_stat_statements is not installed or not preloaded.
CREATE FUNCTION monitoring.suggest_missing_indexes(p_min_rows bigint DEFAULT 10000, p_min_seq_share numeric DEFAULT 0.1)
RETURNS TABLE (suggested_index text, reason text, estimated_benefit text) LANGUAGE plpgsql STABLE AS $$
DECLARE
  v_statements text := (
    SELECT quote_ident(n.nspname) || '.pg_stat_statements'
    FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace WHERE e.extname = 'pg_stat_statements');
BEGIN
  IF v_statements IS NULL THEN
    RAISE NOTICE 'pg_stat_statements is not installed: nothing to suggest from'
      USING HINT = 'CREATE EXTENSION pg_stat_statements';
    RETURN;
  END IF;
  RETURN QUERY EXECUTE replace($q$
    WITH leaves AS (
      SELECT COALESCE(pg_partition_root(s.relid), s.relid::regclass)::oid AS top, s.seq_scan, s.seq_tup_read,
             COALESCE(s.idx_scan, 0) AS idx_scan,
             CASE WHEN c.reltuples >= 0 THEN c.reltuples::bigint ELSE s.n_live_tup END AS live
      FROM pg_stat_user_tables s JOIN pg_class c ON c.oid = s.relid AND c.relkind <> 'p'
    ), big AS (
      SELECT top, sum(live) AS live, sum(seq_scan) AS seq, sum(seq_tup_read) AS seq_rows
      FROM leaves GROUP BY top
      HAVING sum(live) >= $1 AND sum(seq_scan) > 0
        AND sum(seq_scan)::numeric / greatest(sum(seq_scan) + sum(idx_scan), 1) >= $2
    ), statements AS (
      SELECT query, calls, total_exec_time FROM @pg_stat_statements@
      WHERE dbid = (SELECT oid FROM pg_database WHERE datname = current_database())
        AND query ~* '^\s*(select|update|delete|with)' AND query !~* 'pg_catalog|pg_stat'
    ), hits AS (
      SELECT b.top, b.live, b.seq, b.seq_rows, n.nspname, c.relname, c.relkind, a.attname, a.attnum,
             sum(q.calls) AS calls, sum(q.total_exec_time) AS ms
      FROM big b
      JOIN pg_class c ON c.oid = b.top
      JOIN pg_namespace n ON n.oid = c.relnamespace
      JOIN statements q ON q.query ~* ('("?' || n.nspname || '"?\.|\m)"?' || c.relname || '"?\M')
      JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
        AND q.query ~* ('\m"?' || a.attname
          || '"?\s*(=|<|>|<=|>=|in|between)\s*(any\s*)?\(?\s*(\$|now\(\)|current_)')
      GROUP BY b.top, b.live, b.seq, b.seq_rows, n.nspname, c.relname, c.relkind, a.attname, a.attnum
    )
    SELECT format('CREATE INDEX %sON %I.%I (%I);',
                  CASE relkind WHEN 'p' THEN '' ELSE 'CONCURRENTLY ' END,  -- refused on partitioned tables
                  nspname, relname, attname),
           format('%s sequential scans read %s rows; %s calls (%s ms in all) filter on %I and no index begins with it',
                  seq, seq_rows, calls, round(ms::numeric, 1), attname),
           CASE WHEN share <= 0.01 THEN 'High' WHEN share <= 0.1 THEN 'Medium' ELSE 'Low' END
             || format(' - a value matches about %s %% of %s rows', round((share * 100)::numeric, 3), live)
    FROM hits
    CROSS JOIN LATERAL (SELECT COALESCE((
      SELECT CASE WHEN st.n_distinct > 0 THEN 1 / st.n_distinct
                  WHEN st.n_distinct < 0 THEN 1 / (-st.n_distinct * greatest(live, 1))
                  ELSE 1 END
      FROM pg_stats st
      WHERE st.schemaname = nspname AND st.tablename = relname AND st.attname = hits.attname
      ORDER BY st.inherited DESC LIMIT 1), 1) AS share) s
    WHERE share < 0.2
      AND NOT EXISTS (SELECT FROM pg_index i
        WHERE i.indrelid = hits.top AND i.indkey[0] = hits.attnum AND i.indpred IS NULL AND i.indisvalid)
    ORDER BY ms DESC
  $q$, '@pg_stat_statements@', v_statements) USING p_min_rows, p_min_seq_share;
EXCEPTION WHEN object_not_in_prerequisite_state THEN
  RAISE NOTICE 'pg_stat_statements is not preloaded: nothing to suggest from'
    USING HINT = 'add it to shared_preload_libraries and restart PostgreSQL';
END $$;
