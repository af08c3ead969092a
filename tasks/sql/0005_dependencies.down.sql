CREATE OR REPLACE FUNCTION tasks.free_unique_key() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  DELETE FROM tasks.unique_keys WHERE unique_key = OLD.unique_key AND task_id = OLD.task_id;
  RETURN NULL;
END $$;
DROP INDEX tasks.idx_tasks_unique_keys_held;
ALTER TABLE tasks.unique_keys DROP COLUMN free_at_start, DROP COLUMN held_until;

CREATE OR REPLACE FUNCTION tasks.release_dependents() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF NOT EXISTS (
    SELECT FROM new_rows n JOIN tasks.dependencies d ON d.depends_on_task_id = n.task_id
    WHERE n.completed_at IS NOT NULL AND d.released_at IS NULL
  ) THEN
    RETURN NULL;
  END IF;
  WITH ended AS (
    SELECT n.task_id, n.status FROM new_rows n WHERE n.completed_at IS NOT NULL
  ), released AS (
    UPDATE tasks.dependencies d SET released_at = clock_timestamp() FROM ended e
    WHERE d.depends_on_task_id = e.task_id AND d.released_at IS NULL
    RETURNING d.task_id, d.depends_on_task_id, e.status
  ), sums AS (
    SELECT r.task_id, i.task_type, count(*)::int AS released,
           min(r.depends_on_task_id::text) FILTER (WHERE r.status <> 'completed') AS broken,
           min(r.status::text) FILTER (WHERE r.status <> 'completed') AS how
    FROM released r JOIN tasks.identity i ON i.task_id = r.task_id GROUP BY 1, 2
  ), locked AS (
    SELECT q.task_id FROM sums s JOIN tasks.queue q ON q.task_id = s.task_id AND q.task_type = s.task_type
    ORDER BY q.task_id FOR UPDATE OF q
  )
  UPDATE tasks.queue q SET
    blocked_by = greatest(q.blocked_by - s.released, 0),
    status = CASE
      WHEN s.broken IS NOT NULL THEN 'cancelled'
      WHEN q.blocked_by <= s.released AND (q.scheduled_at IS NULL OR q.scheduled_at <= now()) THEN 'queued'
      ELSE q.status END,
    status_reason = CASE WHEN s.broken IS NOT NULL THEN format('task %s that it waits for %s', s.broken, s.how)
      ELSE q.status_reason END,
    completed_at = CASE WHEN s.broken IS NOT NULL THEN greatest(clock_timestamp(), q.created_at) END
  FROM sums s JOIN locked l USING (task_id)
  WHERE q.task_id = s.task_id AND q.task_type = s.task_type AND q.status = 'pending';
  RETURN NULL;
END $$;

DROP TRIGGER block ON tasks.dependencies;
DROP FUNCTION tasks.block_dependents();
CREATE FUNCTION tasks.block_dependent() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE v_status task_status_type;
BEGIN
  SELECT q.status INTO v_status FROM tasks.queue q
  WHERE q.task_id = NEW.depends_on_task_id
    AND q.task_type = (SELECT i.task_type FROM tasks.identity i WHERE i.task_id = NEW.depends_on_task_id)
  FOR SHARE;
  IF v_status IN ('completed', 'failed', 'cancelled') THEN
    NEW.released_at := clock_timestamp();
    IF v_status = 'completed' THEN
      RETURN NEW;
    END IF;
    RAISE EXCEPTION 'task % is %, nothing can wait for it', NEW.depends_on_task_id, v_status
      USING ERRCODE = 'check_violation', CONSTRAINT = 'dependency_can_complete';
  END IF;
  UPDATE tasks.queue q
  SET blocked_by = q.blocked_by + 1, status = CASE WHEN q.status = 'queued' THEN 'pending' ELSE q.status END
  WHERE q.task_id = NEW.task_id
    AND q.task_type = (SELECT i.task_type FROM tasks.identity i WHERE i.task_id = NEW.task_id)
    AND q.status IN ('pending', 'queued');
  IF NOT FOUND THEN
    RAISE EXCEPTION 'task % is not waiting any more, it cannot be made to depend on another', NEW.task_id
      USING ERRCODE = 'check_violation', CONSTRAINT = 'dependent_is_waiting';
  END IF;
  RETURN NEW;
END $$;
CREATE TRIGGER block BEFORE INSERT ON tasks.dependencies
  FOR EACH ROW EXECUTE FUNCTION tasks.block_dependent();

CREATE OR REPLACE FUNCTION tasks.refuse_cycle() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  PERFORM pg_advisory_xact_lock(hashtext('tasks.dependencies'));
  IF EXISTS (
    WITH RECURSIVE upstream(id) AS (
      SELECT NEW.depends_on_task_id::uuid
      UNION
      SELECT d.depends_on_task_id::uuid FROM upstream u JOIN tasks.dependencies d ON d.task_id = u.id)
    SELECT FROM upstream WHERE id = NEW.task_id
  ) THEN
    RAISE EXCEPTION 'dependency cycle through task %', NEW.task_id
      USING ERRCODE = 'check_violation', CONSTRAINT = 'no_dependency_cycle';
  END IF;
  RETURN NULL;
END $$;
DROP INDEX tasks.idx_tasks_dependencies_backward;
ALTER TABLE tasks.dependencies DROP CONSTRAINT only_data_is_named, DROP COLUMN input_name;
