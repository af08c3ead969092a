-- Guide 9.2 tasks.dependencies.
CREATE TABLE tasks.dependencies (
  dependency_id uuid PRIMARY KEY DEFAULT partitions.uuid7(),
  task_id task_id_type NOT NULL REFERENCES tasks.identity ON DELETE CASCADE,
  depends_on_task_id task_id_type NOT NULL REFERENCES tasks.identity ON DELETE CASCADE,
  dependency_type varchar(50) NOT NULL DEFAULT 'completion',
  released_at timestamptz,
  created_at timestamptz NOT NULL DEFAULT now(),
  UNIQUE (task_id, depends_on_task_id),
  CONSTRAINT no_self_dependency CHECK (task_id <> depends_on_task_id),
  CONSTRAINT valid_dependency_type CHECK (dependency_type IN ('completion', 'start', 'data', 'resource'))
);
COMMENT ON COLUMN tasks.dependencies.released_at IS 'when it stopped blocking; NULL: it counts in blocked_by';
CREATE INDEX idx_tasks_dependencies_depends_on ON tasks.dependencies (depends_on_task_id);

-- One at a time, or two inserts could close a cycle that neither sees.
CREATE FUNCTION tasks.refuse_cycle() RETURNS trigger LANGUAGE plpgsql AS $$
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
CREATE TRIGGER no_cycle AFTER INSERT OR UPDATE OF task_id, depends_on_task_id ON tasks.dependencies
  FOR EACH ROW EXECUTE FUNCTION tasks.refuse_cycle();

-- A dependency on a task that is still open blocks: the parent is locked first, so that it either finishes before (and
-- is not counted) or after this transaction (and then sees the row).
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

-- After a statement that ended tasks: release what waited for completed ones, cancel what waited for the others.
-- O(dependents): nothing is polled. The last dependency to end makes the task ready.
CREATE FUNCTION tasks.release_dependents() RETURNS trigger LANGUAGE plpgsql AS $$
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
CREATE TRIGGER release_dependents AFTER UPDATE ON tasks.queue REFERENCING NEW TABLE AS new_rows
  FOR EACH STATEMENT EXECUTE FUNCTION tasks.release_dependents();
