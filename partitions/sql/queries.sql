-- Runtime queries of the partitions room. $names stand for quoted identifiers of the catalog.

-- name: clock
SELECT clock_timestamp() AS now

-- name: ranges
-- Attached partitions, and detached ones that are marked and still there. Open bounds are the ends of time.
WITH archived AS (
  SELECT DISTINCT table_name, partition_oid FROM partitions.archives
  WHERE table_name = ANY(%(tables)s::text[]) AND state = 'verified' AND dropped_at IS NULL
    AND (uploaded_to IS NOT NULL OR NOT %(must_be_uploaded)s)
)
SELECT t.name AS table_name, r.schema_name || '.' || r.partition_name AS name,
       COALESCE(r.lower_time, '0001-01-01 00:00+00') AS lower, COALESCE(r.upper_time, '9999-12-31 00:00+00') AS upper,
       r.detach_pending, true AS is_attached, m.kind AS mark,
       (t.name, r.partition_oid::bigint) IN (SELECT table_name, partition_oid FROM archived) AS is_archived
FROM unnest(%(tables)s::text[]) t (name) JOIN partitions.ranges r ON r.parent_oid = to_regclass(t.name)
LEFT JOIN partitions.marks m ON m.partition_oid = r.partition_oid::bigint
WHERE NOT r.is_default  -- bounds of no other tables are looked at:
  AND r.parent_oid = ANY(ARRAY(SELECT to_regclass(n)::oid FROM unnest(%(tables)s::text[]) n))
UNION ALL
SELECT m.table_name, m.partition_name, m.lower_time, m.upper_time, false, false, m.kind,
       (m.table_name, m.partition_oid) IN (SELECT table_name, partition_oid FROM archived)
FROM partitions.marks m JOIN pg_class c ON c.oid = m.partition_oid::oid
JOIN pg_namespace n ON n.oid = c.relnamespace AND n.nspname || '.' || c.relname = m.partition_name
WHERE m.table_name = ANY(%(tables)s::text[]) AND NOT EXISTS (SELECT FROM pg_inherits i WHERE i.inhrelid = c.oid)
ORDER BY lower

-- name: dropped
SELECT a.table_name, a.lower_time AS lower, a.upper_time AS upper FROM partitions.archives a
WHERE a.table_name = ANY(%(tables)s::text[]) AND a.dropped_at IS NOT NULL

-- name: default_partition
SELECT t.name AS table_name, n.nspname || '.' || c.relname AS name, k.key, k.key_type::text AS key_type
FROM unnest(%(tables)s::text[]) t (name) JOIN pg_partitioned_table p ON p.partrelid = to_regclass(t.name)
JOIN pg_class c ON c.oid = p.partdefid JOIN pg_namespace n ON n.oid = c.relnamespace
CROSS JOIN LATERAL partitions.key_of(p.partrelid) k

-- name: waiting
SELECT date_trunc(%(interval)s, v.moment AT TIME ZONE 'UTC') AT TIME ZONE 'UTC' AS slot, count(*) AS rows
FROM (SELECT $moment AS moment FROM ONLY $default) v
WHERE v.moment >= '1970-01-01 00:00+00' AND v.moment < now() + interval '100 years'
GROUP BY 1

-- name: tables
SELECT n.nspname || '.' || c.relname AS name, t.partstrat::text AS strategy, count(i.inhrelid) AS partitions,
       COALESCE(sum(pg_total_relation_size(i.inhrelid)), 0)::bigint AS size_bytes,
       COALESCE(sum(greatest(l.reltuples, 0)), 0)::bigint AS rows
FROM pg_partitioned_table t
JOIN pg_class c ON c.oid = t.partrelid
JOIN pg_namespace n ON n.oid = c.relnamespace
LEFT JOIN pg_inherits i ON i.inhparent = c.oid
LEFT JOIN pg_class l ON l.oid = i.inhrelid
WHERE n.nspname !~ '^pg_'
GROUP BY 1, 2 ORDER BY 1

-- name: sizes
SELECT n.nspname || '.' || c.relname AS name, pg_total_relation_size(c.oid) AS size_bytes,
       greatest(c.reltuples, 0)::bigint AS rows
FROM unnest(%(tables)s::text[]) t (name) JOIN pg_inherits i ON i.inhparent = to_regclass(t.name)
JOIN pg_class c ON c.oid = i.inhrelid JOIN pg_namespace n ON n.oid = c.relnamespace

-- name: invalid_indexes
-- Left behind by a CREATE INDEX CONCURRENTLY that failed, or a parent's index that some partition lacks.
SELECT t.name AS table_name, x.indexrelid::regclass::text AS index_name
FROM pg_index x CROSS JOIN LATERAL pg_partition_ancestors(x.indrelid) a
JOIN unnest(%(tables)s::text[]) t (name) ON to_regclass(t.name) = a.relid
WHERE NOT x.indisvalid OR NOT x.indisready
ORDER BY 1, 2

-- name: leaf
-- A table by name: its oid, whether it is a partition of $table's ('': of none), what is marked. None when there is no
-- such table. PostgreSQL 15 refuses '' as a name.
SELECT c.oid::bigint AS oid, i.inhparent IS NOT NULL AS is_attached, COALESCE(i.inhdetachpending, false) AS is_pending,
       i.inhparent = to_regclass(NULLIF(%(table)s, '')) AS is_ours, m.kind AS mark, m.archive_id,
       EXISTS (SELECT FROM partitions.ranges r WHERE r.parent_oid = to_regclass(NULLIF(%(table)s, '')) AND r.is_default) AS has_default
FROM pg_class c
LEFT JOIN pg_inherits i ON i.inhrelid = c.oid
LEFT JOIN partitions.marks m ON m.partition_oid = c.oid::bigint AND m.partition_name = %(partition)s
WHERE c.oid = to_regclass(%(quoted)s)

-- name: mark
INSERT INTO partitions.marks (partition_oid, partition_name, table_name, lower_time, upper_time, kind, archive_id)
VALUES (%(oid)s, %(partition)s, %(table)s, %(lower)s, %(upper)s, %(kind)s, %(archive_id)s)
ON CONFLICT (partition_oid) DO UPDATE SET kind = EXCLUDED.kind, partition_name = EXCLUDED.partition_name, marked_at = now()

-- name: columns
SELECT array_agg(attname::text ORDER BY attnum) AS columns, pg_total_relation_size(to_regclass(%(quoted)s)) AS size_bytes
FROM pg_attribute
WHERE attrelid = to_regclass(%(quoted)s) AND attnum > 0 AND NOT attisdropped AND attgenerated = ''

-- name: checksum
SELECT row_count, checksum FROM partitions.checksum_of(to_regclass(%(quoted)s), %(columns)s)

-- name: interrupt_runs
-- A run holds an advisory lock while it lives: where that is to be had, its process is gone.
UPDATE partitions.runs SET status = 'interrupted', error = 'its process died'
WHERE status = 'running' AND run_id <> %(run_id)s
  AND pg_try_advisory_xact_lock(hashtext('partitions.run'), hashtext(run_id::text))

-- name: forget_runs
DELETE FROM partitions.runs WHERE started_at < now() - make_interval(days => %(keep_days)s)
