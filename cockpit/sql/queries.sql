-- The roles of the server and what they may do.

-- name: roles
SELECT rolname AS name, rolcanlogin AS can_login, rolsuper OR rolcreatedb OR rolcreaterole OR rolbypassrls AS is_powerful,
       rolconfig AS settings
FROM pg_roles WHERE rolname = ANY(%(names)s)

-- name: owner
-- Who owns our tables.
SELECT pg_get_userbyid(relowner)::text AS owner FROM pg_class WHERE oid = 'tasks.queue'::regclass

-- name: memberships
SELECT pg_get_userbyid(roleid)::text AS role, pg_get_userbyid(member)::text AS member FROM pg_auth_members

-- name: schemas
SELECT n.nspname::text AS name,
       ARRAY(SELECT r.rolname::text FROM pg_roles r
             WHERE r.rolname = ANY(%(names)s) AND has_schema_privilege(r.oid, n.oid, 'USAGE')) AS may_use
FROM pg_namespace n
WHERE n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
ORDER BY 1

-- name: relations
-- Temporary tables and those of extensions are nobody's business.
SELECT n.nspname || '.' || c.relname AS name, c.relkind::text AS kind,
       COALESCE((SELECT rn.nspname || '.' || r.relname FROM pg_class r JOIN pg_namespace rn ON rn.oid = r.relnamespace
                 WHERE c.relispartition AND r.oid = pg_partition_root(c.oid)), '') AS root
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'p', 'v', 'm', 'S') AND c.relpersistence <> 't'
  AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
  AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.objid = c.oid AND d.classid = 'pg_class'::regclass AND d.deptype = 'e')
ORDER BY 1

-- name: rights
SELECT n.nspname || '.' || c.relname AS name, r.rolname::text AS role, array_agg(a.privilege_type) AS rights
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace, aclexplode(c.relacl) a
JOIN pg_roles r ON r.oid = a.grantee
WHERE r.rolname = ANY(%(names)s)
GROUP BY 1, 2

-- name: missing_defaults
SELECT m.rolname::text AS maker, n.nspname::text AS schema, r.rolname::text AS reader
FROM pg_roles m, pg_namespace n, pg_roles r
WHERE m.rolname = ANY(%(makers)s) AND r.rolname = ANY(%(readers)s)
  AND n.nspname !~ '^pg_' AND n.nspname NOT IN ('information_schema', 'public')
  AND NOT EXISTS (
    SELECT FROM pg_default_acl d, aclexplode(d.defaclacl) a
    WHERE d.defaclrole = m.oid AND d.defaclnamespace = n.oid AND d.defaclobjtype = 'r'
      AND a.grantee = r.oid AND a.privilege_type = 'SELECT')
ORDER BY 1, 2, 3
