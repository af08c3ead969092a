-- name: tables
-- Every table with rows of its own that a dump holds: not temporary, not an extension's. The leaves of a partitioned
-- table come with their bounds, those being detached too: a dump has them attached.
WITH RECURSIVE ours AS (
  SELECT c.oid, c.relkind, n.nspname || '.' || c.relname AS name, format('%I.%I', n.nspname, c.relname) AS quoted,
         c.relispartition, pg_get_expr(c.relpartbound, c.oid) AS bound
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
  WHERE c.relkind IN ('r', 'p') AND c.relpersistence <> 't'
    AND n.nspname <> 'information_schema' AND n.nspname !~ '^pg_'
    AND NOT EXISTS (SELECT FROM pg_depend d
      WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e')
), below AS (
  SELECT oid AS root, oid FROM ours WHERE NOT relispartition
  UNION ALL
  SELECT b.root, i.inhrelid FROM below b
  JOIN ours parent ON parent.oid = b.oid AND parent.relkind = 'p'
  JOIN pg_inherits i ON i.inhparent = b.oid
)
SELECT root.name AS table_name, root.quoted AS table_quoted, root.relkind = 'p' AS is_partitioned,
       leaf.name AS leaf_name, leaf.quoted AS leaf_quoted, leaf.bound
FROM ours root
LEFT JOIN (below b JOIN ours leaf ON leaf.oid = b.oid AND leaf.relkind = 'r') ON b.root = root.oid
WHERE NOT root.relispartition
ORDER BY root.name, leaf.name;

-- name: rows
-- The checksum does not depend on the order of the rows: the sum of a 64-bit hash of each row as text.
SELECT count(*), COALESCE(sum(hashtextextended((counted.*)::text, 0)), 0)::text FROM ONLY $table counted;

-- name: objects
-- What else the schema consists of, by name. Left out: what extensions bring along, and what PostgreSQL makes by
-- itself for partitions (it chooses those names anew).
WITH ours AS (
  SELECT oid, nspname FROM pg_namespace WHERE nspname <> 'information_schema' AND nspname !~ '^pg_'
), an_extension_s AS (
  SELECT classid, objid FROM pg_depend WHERE deptype = 'e'
), found (class, oid, name) AS (
  SELECT 'pg_namespace'::regclass, oid, 'schema ' || nspname FROM ours
  UNION ALL
  SELECT 'pg_extension'::regclass, oid, 'extension ' || extname FROM pg_extension
  UNION ALL
  SELECT 'pg_class'::regclass, c.oid,
         CASE c.relkind WHEN 'S' THEN 'sequence ' WHEN 'v' THEN 'view ' WHEN 'm' THEN 'materialized view '
                        WHEN 'f' THEN 'foreign table ' ELSE 'index ' END || n.nspname || '.' || c.relname
  FROM pg_class c JOIN ours n ON n.oid = c.relnamespace
  WHERE c.relkind IN ('S', 'v', 'm', 'f', 'i', 'I') AND c.relpersistence <> 't'
  UNION ALL
  SELECT 'pg_class'::regclass, c.oid,
         concat_ws(' ', 'column', n.nspname || '.' || c.relname || '.' || a.attname,
                   format_type(a.atttypid, a.atttypmod), CASE WHEN a.attnotnull THEN 'not null' END,
                   CASE WHEN a.attgenerated <> '' THEN 'generated'
                        WHEN a.attidentity <> '' THEN 'identity'
                        WHEN a.atthasdef THEN 'default' END)
  FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid JOIN ours n ON n.oid = c.relnamespace
  WHERE c.relkind IN ('r', 'p') AND NOT c.relispartition AND c.relpersistence <> 't'
    AND a.attnum > 0 AND NOT a.attisdropped
  UNION ALL
  SELECT 'pg_class'::regclass, c.oid, 'constraint ' || n.nspname || '.' || c.relname || '.' || k.conname
  FROM pg_constraint k JOIN pg_class c ON c.oid = k.conrelid JOIN ours n ON n.oid = c.relnamespace
  WHERE k.contype IN ('c', 'f', 'p', 'u', 'x') AND NOT c.relispartition
  UNION ALL
  SELECT 'pg_class'::regclass, c.oid, 'trigger ' || n.nspname || '.' || c.relname || '.' || t.tgname
  FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid JOIN ours n ON n.oid = c.relnamespace
  WHERE NOT t.tgisinternal AND t.tgparentid = 0
  UNION ALL
  SELECT 'pg_proc'::regclass, p.oid, 'function ' || p.oid::regprocedure::text
  FROM pg_proc p JOIN ours n ON n.oid = p.pronamespace
  UNION ALL
  SELECT 'pg_type'::regclass, t.oid, 'type ' || n.nspname || '.' || t.typname
  FROM pg_type t JOIN ours n ON n.oid = t.typnamespace
  LEFT JOIN pg_class c ON c.oid = t.typrelid
  WHERE t.typtype IN ('d', 'e', 'r') OR c.relkind = 'c'
)
SELECT name FROM found
WHERE NOT EXISTS (SELECT FROM an_extension_s e WHERE e.classid = found.class AND e.objid = found.oid)
ORDER BY name;

-- name: database
-- What CREATE DATABASE must be told, and the roles that own something in it or may use it.
SELECT datname AS name, pg_encoding_to_char(encoding) AS encoding, datcollate AS lc_collate, datctype AS lc_ctype,
       datlocprovider::text AS provider, $locale AS locale,
       -- pg_shdepend does not know what the first superuser owns
       ARRAY(SELECT r.rolname::text FROM pg_shdepend s JOIN pg_roles r ON r.oid = s.refobjid
         WHERE s.refclassid = 'pg_authid'::regclass AND s.dbid = d.oid
         UNION
         SELECT r.rolname::text FROM pg_class c JOIN pg_roles r ON r.oid = c.relowner
         JOIN pg_namespace n ON n.oid = c.relnamespace
         WHERE n.nspname <> 'information_schema' AND n.nspname !~ '^pg_' ORDER BY 1) AS roles
FROM pg_database d WHERE datname = current_database();

-- name: cluster
-- Which server it is, and how large.
SELECT system_identifier::text, (SELECT sum(pg_database_size(oid))::bigint FROM pg_database) FROM pg_control_system();

-- name: archiver
-- Does archiving work? `is_failing`: the last try failed.
SELECT failed_count, last_archived_time,
       COALESCE(last_failed_time > COALESCE(last_archived_time, '-infinity'), false) AS is_failing
FROM pg_stat_archiver;

-- name: slots
-- How much WAL each replication slot holds back.
SELECT slot_name, GREATEST(pg_current_wal_lsn() - restart_lsn, 0) AS lag_bytes
FROM pg_replication_slots WHERE restart_lsn IS NOT NULL;

-- name: copy_progress
-- Base backups being copied now.
SELECT phase, backup_streamed >> 20 AS streamed_mb, COALESCE(backup_total, 0) >> 20 AS total_mb
FROM pg_stat_progress_basebackup;

-- name: foreign_objects
-- What stands in the way of a restore: all that no extension and no fresh database has.
SELECT count(*) FROM (
  SELECT 'pg_class'::regclass AS class, c.oid FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
  WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f') AND n.nspname <> 'information_schema' AND n.nspname !~ '^pg_'
  UNION ALL
  SELECT 'pg_proc'::regclass, p.oid FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
  WHERE n.nspname <> 'information_schema' AND n.nspname !~ '^pg_'
  UNION ALL
  SELECT 'pg_namespace'::regclass, n.oid FROM pg_namespace n
  WHERE n.nspname NOT IN ('information_schema', 'public') AND n.nspname !~ '^pg_'
) found
WHERE NOT EXISTS (
  SELECT FROM pg_depend d WHERE d.classid = found.class AND d.objid = found.oid AND d.deptype = 'e');

-- name: end_leftover_dumps
-- A killed run may have left its pg_dump behind, which would go on for hours.
SELECT pg_terminate_backend(pid) FROM pg_stat_activity
WHERE datname = %(database)s AND application_name = %(application)s AND pid <> pg_backend_pid();
