-- Give a new leaf the owner of its parent, and to everybody else what they may do with the parent: for tables whose leaves
-- statements name, as the claim of tasks does. Others reach a partition through its parent, which needs no right on it.
CREATE FUNCTION partitions.copy_grants(p_parent regclass, p_leaf regclass) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
  v_parent pg_class := (SELECT c FROM pg_class c WHERE c.oid = p_parent);
  v_row record;
BEGIN
  FOR v_row IN SELECT a.privilege_type AS what,
                      CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(a.grantee)) END AS who
               FROM aclexplode(v_parent.relacl) a
               WHERE a.grantee <> v_parent.relowner AND a.privilege_type IN ('SELECT', 'INSERT', 'UPDATE', 'DELETE') LOOP
    EXECUTE format('GRANT %s ON %s TO %s', v_row.what, p_leaf, v_row.who);
  END LOOP;
  IF v_parent.relowner <> (SELECT c.relowner FROM pg_class c WHERE c.oid = p_leaf) THEN
    EXECUTE format('ALTER TABLE %s OWNER TO %I', p_leaf, pg_get_userbyid(v_parent.relowner));
  END IF;
END $$;
