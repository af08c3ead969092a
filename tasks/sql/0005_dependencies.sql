-- What each kind of dependency means: completion and data wait until the other is completed (and end with it where it
-- fails), start until it has started once, resource until it has ended, however. All per statement: a workflow of
-- thousands of edges is a handful of index probes per edge.
ALTER TABLE tasks.dependencies ADD COLUMN input_name varchar(255);
COMMENT ON COLUMN tasks.dependencies.input_name IS 'data: the name under which the waiting task gets the result';
ALTER TABLE tasks.dependencies ADD CONSTRAINT only_data_is_named CHECK (
  input_name IS NULL OR (dependency_type = 'data' AND length(input_name) > 0));
-- Edges from an older task to a newer one. A cycle has at least one; without any there is none.
CREATE INDEX idx_tasks_dependencies_backward ON tasks.dependencies (task_id) WHERE depends_on_task_id > task_id;

-- Shared lock for forward edges, exclusive for backward ones: of two transactions that close a cycle together, one has a
-- backward edge, so it waits for the other, or the other for it.
CREATE OR REPLACE FUNCTION tasks.refuse_cycle() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF NEW.depends_on_task_id < NEW.task_id THEN
    PERFORM pg_advisory_xact_lock_shared(hashtext('tasks.dependencies'));
    IF NOT EXISTS (SELECT FROM tasks.dependencies d WHERE d.depends_on_task_id > d.task_id) THEN
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

DROP TRIGGER block ON tasks.dependencies;
DROP FUNCTION tasks.block_dependent();

-- After new dependencies: those on tasks that are still open block. The parents are locked first, in order, so that each
-- either ends before (and is not counted) or after this transaction (and then sees the row).
CREATE FUNCTION tasks.block_dependents() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE v_broken record;
BEGIN
  PERFORM FROM new_rows n JOIN tasks.identity i ON i.task_id = n.depends_on_task_id
  JOIN tasks.queue q ON q.task_id = i.task_id AND q.task_type = i.task_type
  ORDER BY q.task_id FOR SHARE OF q;
  SELECT n.depends_on_task_id, q.status INTO v_broken
  FROM new_rows n JOIN tasks.identity i ON i.task_id = n.depends_on_task_id
  JOIN tasks.queue q ON q.task_id = i.task_id AND q.task_type = i.task_type
  WHERE q.status IN ('failed', 'cancelled') AND n.released_at IS NULL
    AND NOT (n.dependency_type = 'resource' OR (n.dependency_type = 'start' AND q.attempt > 0))
  LIMIT 1;
  IF FOUND THEN
    RAISE EXCEPTION 'task % is %, nothing can wait for it', v_broken.depends_on_task_id, v_broken.status
      USING ERRCODE = 'check_violation', CONSTRAINT = 'dependency_can_complete', SCHEMA = 'tasks', TABLE = 'dependencies';
  END IF;
  UPDATE tasks.dependencies d SET released_at = clock_timestamp()
  FROM new_rows n JOIN tasks.identity i ON i.task_id = n.depends_on_task_id
  JOIN tasks.queue q ON q.task_id = i.task_id AND q.task_type = i.task_type
  WHERE d.dependency_id = n.dependency_id AND d.released_at IS NULL
    AND (q.completed_at IS NOT NULL OR (n.dependency_type = 'start' AND q.attempt > 0));
  WITH sums AS (
    SELECT d.task_id, i.task_type, count(*)::int AS open
    FROM new_rows n JOIN tasks.dependencies d ON d.dependency_id = n.dependency_id
    JOIN tasks.identity i ON i.task_id = d.task_id
    WHERE d.released_at IS NULL GROUP BY 1, 2
  ), locked AS (
    SELECT q.task_id FROM sums s JOIN tasks.queue q ON q.task_id = s.task_id AND q.task_type = s.task_type
    ORDER BY q.task_id FOR UPDATE OF q
  ), blocked AS (
    UPDATE tasks.queue q
    SET blocked_by = q.blocked_by + s.open, status = CASE WHEN q.status = 'queued' THEN 'pending' ELSE q.status END
    FROM sums s JOIN locked l USING (task_id)
    WHERE q.task_id = s.task_id AND q.task_type = s.task_type AND q.status IN ('pending', 'queued')
    RETURNING q.task_id
  )
  SELECT s.task_id INTO v_broken FROM sums s WHERE s.task_id NOT IN (SELECT b.task_id FROM blocked b) LIMIT 1;
  IF FOUND THEN
    RAISE EXCEPTION 'task % is not waiting any more, it cannot be made to depend on another', v_broken.task_id
      USING ERRCODE = 'check_violation', CONSTRAINT = 'dependent_is_waiting', SCHEMA = 'tasks', TABLE = 'dependencies';
  END IF;
  RETURN NULL;
END $$;
CREATE TRIGGER block AFTER INSERT ON tasks.dependencies REFERENCING NEW TABLE AS new_rows
  FOR EACH STATEMENT EXECUTE FUNCTION tasks.block_dependents();

-- After a statement that started or ended tasks: release what waited for that, cancel what waited in vain. O(dependents):
-- nothing is polled. The last dependency to be released makes the task ready.
CREATE OR REPLACE FUNCTION tasks.release_dependents() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF NOT EXISTS (
    SELECT FROM new_rows n JOIN tasks.dependencies d ON d.depends_on_task_id = n.task_id
    WHERE d.released_at IS NULL
      AND (n.completed_at IS NOT NULL OR (n.status = 'running' AND d.dependency_type = 'start'))
  ) THEN
    RETURN NULL;
  END IF;
  WITH moved AS (
    SELECT n.task_id, n.status FROM new_rows n WHERE n.completed_at IS NOT NULL OR n.status = 'running'
  ), released AS (
    UPDATE tasks.dependencies d SET released_at = clock_timestamp() FROM moved m
    WHERE d.depends_on_task_id = m.task_id AND d.released_at IS NULL
      AND (m.status <> 'running' OR d.dependency_type = 'start')
    RETURNING d.task_id, d.depends_on_task_id, m.status,
              m.status IN ('failed', 'cancelled') AND d.dependency_type <> 'resource' AS is_broken
  ), sums AS (
    SELECT r.task_id, i.task_type, count(*)::int AS released,
           min(r.depends_on_task_id::text) FILTER (WHERE r.is_broken) AS broken,
           min(r.status::text) FILTER (WHERE r.is_broken) AS how
    FROM released r JOIN tasks.identity i ON i.task_id = r.task_id GROUP BY 1, 2
  ), locked AS (
    SELECT q.task_id FROM sums s JOIN tasks.queue q ON q.task_id = s.task_id AND q.task_type = s.task_type
    ORDER BY q.task_id FOR UPDATE OF q
  )
  UPDATE tasks.queue q SET
    blocked_by = greatest(q.blocked_by - s.released, 0),
    status = CASE
      WHEN q.status <> 'pending' THEN q.status
      WHEN s.broken IS NOT NULL THEN 'cancelled'
      WHEN q.blocked_by <= s.released AND (q.scheduled_at IS NULL OR q.scheduled_at <= now()) THEN 'queued'
      ELSE q.status END,
    status_reason = CASE WHEN q.status = 'pending' AND s.broken IS NOT NULL
      THEN format('task %s that it waits for %s', s.broken, s.how) ELSE q.status_reason END,
    completed_at = CASE WHEN q.status = 'pending' AND s.broken IS NOT NULL
      THEN greatest(clock_timestamp(), q.created_at) ELSE q.completed_at END
  FROM sums s JOIN locked l USING (task_id)
  WHERE q.task_id = s.task_id AND q.task_type = s.task_type;
  RETURN NULL;
END $$;

-- Keys: held until the task ends, or starts (free_at_start), and in any case until held_until.
ALTER TABLE tasks.unique_keys
  ADD COLUMN held_until timestamptz,
  ADD COLUMN free_at_start boolean NOT NULL DEFAULT false;
COMMENT ON COLUMN tasks.unique_keys.held_until IS 'not free before, even if the task has ended; NULL: free when it ends';
CREATE INDEX idx_tasks_unique_keys_held ON tasks.unique_keys (held_until) WHERE held_until IS NOT NULL;
CREATE OR REPLACE FUNCTION tasks.free_unique_key() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  DELETE FROM tasks.unique_keys k
  WHERE k.unique_key = OLD.unique_key AND k.task_id = OLD.task_id AND COALESCE(k.held_until, '-infinity') <= now()
    AND (NEW.completed_at IS NOT NULL OR k.free_at_start);
  RETURN NULL;
END $$;
