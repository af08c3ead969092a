-- Where hypopg is installed, the planner is asked whether it would use a suggested index.

-- What a look-up by one value of a column costs the planner without and with a hypothetical index on it, in words. NULL where
-- hypopg is not installed, the table has no value, or hypopg cannot (partitioned tables). Leaves nothing behind.
CREATE FUNCTION monitoring.try_index(p_table text, p_column text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
  v_hypopg text := (SELECT quote_ident(n.nspname) FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace
                    WHERE e.extname = 'hypopg');
  v_value text; v_look text; v_plan jsonb; v_before numeric; v_after numeric; v_index oid;
BEGIN
  IF v_hypopg IS NULL THEN
    RETURN NULL;
  END IF;
  EXECUTE format('SELECT %I::text FROM %s WHERE %I IS NOT NULL LIMIT 1', p_column, p_table, p_column) INTO v_value;
  IF v_value IS NULL THEN
    RETURN NULL;
  END IF;
  v_look := format('EXPLAIN (FORMAT JSON) SELECT * FROM %s WHERE %I = %L', p_table, p_column, v_value);
  EXECUTE v_look INTO v_plan;
  v_before := v_plan -> 0 -> 'Plan' ->> 'Total Cost';
  EXECUTE format('SELECT indexrelid FROM %s.hypopg_create_index($1)', v_hypopg) INTO v_index
    USING format('CREATE INDEX ON %s (%I)', p_table, p_column);
  EXECUTE v_look INTO v_plan;
  EXECUTE format('SELECT %s.hypopg_drop_index($1)', v_hypopg) USING v_index;
  v_after := v_plan -> 0 -> 'Plan' ->> 'Total Cost';
  RETURN CASE WHEN v_after < v_before
              THEN format('hypopg: a look-up costs %s instead of %s', round(v_after), round(v_before))
              ELSE 'hypopg: the planner would not use it' END;
EXCEPTION WHEN feature_not_supported OR insufficient_privilege OR wrong_object_type OR internal_error THEN
  RETURN NULL;
END $$;

-- Columns that statements filter on and no index begins with: big tables with sequential scans, crossed with the
-- predicates in pg_stat_statements and the selectivity in pg_stats. A heuristic: it reads normalised text. Nothing is
-- found, and a notice says so, where pg_stat_statements is not installed or not preloaded.
CREATE OR REPLACE FUNCTION monitoring.suggest_missing_indexes(p_min_rows bigint DEFAULT 10000, p_min_seq_share numeric DEFAULT 0.1)
RETURNS TABLE (suggested_index text, reason text, estimated_benefit text) LANGUAGE plpgsql VOLATILE AS $$
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
             || COALESCE('; ' || monitoring.try_index(format('%I.%I', nspname, relname), attname), '')
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
