-- Give a task type its own leaf of tasks.queue, online: rows of that type move out of DEFAULT in the same transaction.
-- Writers wait at the parent for the moment of the move (had they been routed to DEFAULT already, they would fail); the
-- rows keep their identity, so no cascade reaches dependencies. The leaf gets every statement trigger of the parent.
-- Returns the leaf's name. Running it again returns the same name. Retry on lock_not_available.
CREATE FUNCTION partitions.create_task_type_partition(p_task_type text, p_lock_timeout text DEFAULT '2s')
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

SELECT partitions.copy_statement_triggers('tasks.queue', 'tasks.queue_default');

-- A key is taken when its task is inserted or opened again, by whatever client. Enqueuing takes it beforehand.
CREATE FUNCTION tasks.take_unique_key() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE v_holder uuid;
BEGIN
  INSERT INTO tasks.unique_keys (unique_key, task_id) VALUES (NEW.unique_key, NEW.task_id)
  ON CONFLICT (unique_key) DO NOTHING;
  SELECT k.task_id INTO v_holder FROM tasks.unique_keys k WHERE k.unique_key = NEW.unique_key;
  IF v_holder IS DISTINCT FROM NEW.task_id THEN
    RAISE EXCEPTION 'unique key % is held by task %', NEW.unique_key, v_holder
      USING ERRCODE = 'unique_violation', CONSTRAINT = 'unique_key_is_free', SCHEMA = 'tasks', TABLE = 'queue';
  END IF;
  RETURN NULL;
END $$;
CREATE TRIGGER take_unique_key AFTER INSERT ON tasks.queue
  FOR EACH ROW WHEN (NEW.unique_key IS NOT NULL AND NEW.completed_at IS NULL)
  EXECUTE FUNCTION tasks.take_unique_key();
CREATE TRIGGER retake_unique_key AFTER UPDATE OF status ON tasks.queue
  FOR EACH ROW WHEN (NEW.completed_at IS NULL AND OLD.completed_at IS NOT NULL AND NEW.unique_key IS NOT NULL)
  EXECUTE FUNCTION tasks.take_unique_key();

-- A key is free again when its task ends.
CREATE FUNCTION tasks.free_unique_key() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  DELETE FROM tasks.unique_keys WHERE unique_key = OLD.unique_key AND task_id = OLD.task_id;
  RETURN NULL;
END $$;
CREATE TRIGGER free_unique_key AFTER UPDATE OF status ON tasks.queue
  FOR EACH ROW WHEN (NEW.completed_at IS NOT NULL AND OLD.completed_at IS NULL AND OLD.unique_key IS NOT NULL)
  EXECUTE FUNCTION tasks.free_unique_key();

INSERT INTO partitions.policies (table_name, make_ahead_days, keep_days, on_expiry) VALUES
  ('tasks.executions', 14, 30, 'archive');
SELECT partitions.create_time_partition('tasks.executions', (now() AT TIME ZONE 'UTC')::date + n)
FROM generate_series(-1, 14) n;
