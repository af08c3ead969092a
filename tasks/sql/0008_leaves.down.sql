CREATE OR REPLACE FUNCTION partitions.create_task_type_partition(p_task_type text, p_lock_timeout text DEFAULT '2s')
RETURNS text LANGUAGE plpgsql AS $$
DECLARE
  v_name text := 'queue_' || left(regexp_replace(lower(p_task_type), '[^a-z0-9]+', '_', 'g'), 40)
                 || '_' || left(md5(p_task_type), 8);
  v_existing text;
BEGIN
  PERFORM set_config('lock_timeout', p_lock_timeout, true);
  PERFORM pg_advisory_xact_lock(hashtext('partitions'), 'tasks.queue'::regclass::oid::int);
  SELECT 'tasks.' || quote_ident(c.relname) INTO v_existing
  FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
  WHERE i.inhparent = 'tasks.queue'::regclass
    AND pg_get_expr(c.relpartbound, c.oid) = format('FOR VALUES IN (%L)', p_task_type);
  IF FOUND THEN
    RETURN v_existing;
  END IF;
  EXECUTE format(
    'CREATE TABLE tasks.%I (LIKE tasks.queue INCLUDING ALL, '
    'CONSTRAINT part_bound CHECK (task_type IS NOT NULL AND task_type = %L)) WITH (fillfactor = 85, '
    'autovacuum_vacuum_scale_factor = 0.01, autovacuum_vacuum_threshold = 1000, autovacuum_vacuum_cost_delay = 0)',
    v_name, p_task_type);
  LOCK TABLE ONLY tasks.queue IN SHARE ROW EXCLUSIVE MODE;
  LOCK TABLE tasks.queue_default IN ACCESS EXCLUSIVE MODE;
  ALTER TABLE tasks.queue_default DISABLE TRIGGER USER;  -- a move is neither a delete nor an insert to anybody
  EXECUTE format(
    'WITH moved AS (DELETE FROM tasks.queue_default WHERE task_type = %L RETURNING *) INSERT INTO tasks.%I SELECT * FROM moved',
    p_task_type, v_name);
  ALTER TABLE tasks.queue_default ENABLE TRIGGER USER;
  EXECUTE format('ALTER TABLE tasks.queue ATTACH PARTITION tasks.%I FOR VALUES IN (%L)', v_name, p_task_type);
  EXECUTE format('ALTER TABLE tasks.%I DROP CONSTRAINT part_bound', v_name);
  PERFORM partitions.copy_statement_triggers('tasks.queue', format('tasks.%I', v_name)::regclass);
  RETURN 'tasks.' || quote_ident(v_name);
END $$;
