-- The same view. OFFSET 0 keeps the planner from writing a bound's text out wherever it is used: it was made of the
-- catalog's node tree and searched up to nine times a partition, now once.
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
CROSS JOIN LATERAL (SELECT pg_get_expr(c.relpartbound, c.oid) AS bound OFFSET 0) x
CROSS JOIN LATERAL (
  SELECT x.bound = 'DEFAULT' AS is_default,
         substring(x.bound FROM 'FROM \(''([^'']+)''\)') AS lower_text,
         substring(x.bound FROM 'TO \(''([^'']+)''\)') AS upper_text,
         COALESCE(NULLIF(ty.typbasetype, 0), ty.oid) AS key_type OFFSET 0) b
WHERE t.partstrat = 'r' AND t.partnatts = 1
  AND b.key_type IN ('uuid'::regtype, 'timestamptz'::regtype, 'timestamp'::regtype, 'date'::regtype);
