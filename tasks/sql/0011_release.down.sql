DROP TRIGGER check_status ON tasks.queue;
CREATE TRIGGER check_status BEFORE UPDATE OF status ON tasks.queue
  FOR EACH ROW WHEN (
    OLD.status IS DISTINCT FROM NEW.status
    AND NOT (OLD.status = 'queued' AND NEW.status = 'running') AND NOT (OLD.status = 'running' AND NEW.status = 'completed'))
  EXECUTE FUNCTION tasks.check_status_transition();
ALTER TABLE tasks.dependencies RESET (fillfactor);
DROP TRIGGER no_cycle_of_insert ON tasks.dependencies;
DROP TRIGGER no_cycle ON tasks.dependencies;
CREATE TRIGGER no_cycle AFTER INSERT OR UPDATE OF task_id, depends_on_task_id ON tasks.dependencies
  FOR EACH ROW EXECUTE FUNCTION tasks.refuse_cycle();
DROP FUNCTION tasks.refuse_cycles();

CREATE OR REPLACE FUNCTION tasks.block_dependents() RETURNS trigger LANGUAGE plpgsql AS $$
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
DROP FUNCTION tasks.cancel_dependents(uuid[], uuid[], task_status_type);
DROP FUNCTION tasks.lock_tasks(uuid[]);
