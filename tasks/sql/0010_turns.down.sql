DROP TRIGGER touch ON tasks.queue;
CREATE TRIGGER touch BEFORE UPDATE ON tasks.queue
  FOR EACH ROW WHEN (OLD.* IS DISTINCT FROM NEW.*) EXECUTE FUNCTION touch_updated_at();
DROP TRIGGER check_status ON tasks.queue;
CREATE TRIGGER check_status BEFORE UPDATE OF status ON tasks.queue
  FOR EACH ROW WHEN (OLD.status IS DISTINCT FROM NEW.status) EXECUTE FUNCTION tasks.check_status_transition();

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
  LOCK TABLE ONLY tasks.queue IN ACCESS EXCLUSIVE MODE;
  PERFORM partitions.move_from_default('tasks.queue_default', format('tasks.%I', v_name), format('task_type = %L', p_task_type));
  EXECUTE format('ALTER TABLE tasks.queue ATTACH PARTITION tasks.%I FOR VALUES IN (%L)', v_name, p_task_type);
  EXECUTE format('ALTER TABLE tasks.%I DROP CONSTRAINT part_bound', v_name);
  PERFORM partitions.copy_statement_triggers('tasks.queue', format('tasks.%I', v_name)::regclass);
  RETURN 'tasks.' || quote_ident(v_name);
END $$;

DO $$
DECLARE v_function regprocedure;
BEGIN
  FOR v_function IN
    SELECT p.oid FROM pg_proc p JOIN pg_class c ON p.proname = 'turn_' || c.relname
    JOIN pg_partition_tree('tasks.queue') t ON t.relid = c.oid WHERE p.pronamespace = 'tasks'::regnamespace
  LOOP
    EXECUTE format('DROP FUNCTION %s', v_function);
  END LOOP;
END $$;
DROP FUNCTION tasks.make_turn(regclass);
