-- The search for an edge from an older task to a newer one, by its index: the planner takes a third of all edges for such
-- ones, and would read the table for the first of none. The order leaves it the index alone.
CREATE OR REPLACE FUNCTION tasks.refuse_cycle() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF NEW.depends_on_task_id < NEW.task_id THEN
    PERFORM pg_advisory_xact_lock_shared(hashtext('tasks.dependencies'));
    PERFORM FROM tasks.dependencies d WHERE d.depends_on_task_id > d.task_id ORDER BY d.task_id LIMIT 1;
    IF NOT FOUND THEN
      RETURN NULL;
    END IF;
  ELSE
    PERFORM pg_advisory_xact_lock(hashtext('tasks.dependencies'));
  END IF;
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
