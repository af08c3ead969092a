-- Mutual exclusion on named resources. A task that starts takes all of its resources or none; where another holds one, it is
-- parked (pending, blocked once more) and out of the claim's sight until that one is free. Taken and freed by triggers: the
-- same for any client.
ALTER TABLE tasks.queue ADD COLUMN resources varchar(255)[];
COMMENT ON COLUMN tasks.queue.resources IS 'names of which no other running task may hold any';

CREATE TABLE tasks.resource_holders (
  resource varchar(255) PRIMARY KEY,
  task_id task_id_type NOT NULL REFERENCES tasks.identity ON DELETE CASCADE,
  held_since timestamptz NOT NULL DEFAULT clock_timestamp(),
  CONSTRAINT valid_resource CHECK (length(resource) > 0)
);
CREATE INDEX idx_tasks_resource_holders_task ON tasks.resource_holders (task_id);

CREATE TABLE tasks.resource_waiters (
  task_id task_id_type PRIMARY KEY REFERENCES tasks.identity ON DELETE CASCADE,
  task_type varchar(100) NOT NULL,
  resource varchar(255) NOT NULL,
  priority task_priority_type NOT NULL,
  waits_since timestamptz NOT NULL DEFAULT clock_timestamp(),
  CONSTRAINT valid_resource CHECK (length(resource) > 0)
);
CREATE INDEX idx_tasks_resource_waiters_best ON tasks.resource_waiters (resource, priority DESC, task_id);

CREATE FUNCTION tasks.take_resources() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE v_resource text; v_holder uuid;
BEGIN
  FOR v_resource IN SELECT DISTINCT r FROM unnest(NEW.resources) r ORDER BY r LOOP  -- in order: no deadlock
    LOOP
      INSERT INTO tasks.resource_holders (resource, task_id) VALUES (v_resource, NEW.task_id) ON CONFLICT DO NOTHING;
      EXIT WHEN FOUND;
      -- locked: its holder either ends after this transaction, and sees the waiter, or is gone by now
      SELECT h.task_id INTO v_holder FROM tasks.resource_holders h WHERE h.resource = v_resource FOR SHARE;
      CONTINUE WHEN NOT FOUND;
      EXIT WHEN v_holder = NEW.task_id;
      DELETE FROM tasks.resource_holders h WHERE h.task_id = NEW.task_id;
      INSERT INTO tasks.resource_waiters (task_id, task_type, resource, priority)
      VALUES (NEW.task_id, NEW.task_type, v_resource, NEW.priority)
      ON CONFLICT (task_id) DO UPDATE SET resource = EXCLUDED.resource;
      NEW := OLD;
      NEW.status := 'pending';
      NEW.blocked_by := OLD.blocked_by + 1;
      NEW.status_reason := format('waits for the resource %s', v_resource);
      RETURN NEW;
    END LOOP;
  END LOOP;
  RETURN NEW;
END $$;
CREATE TRIGGER acquire_resources BEFORE UPDATE ON tasks.queue
  FOR EACH ROW WHEN (NEW.resources IS NOT NULL AND NEW.status = 'running' AND OLD.status = 'queued')
  EXECUTE FUNCTION tasks.take_resources();

-- Let the best task that waits for a resource try again; the next one where it ended meanwhile. Returns its type; NULL:
-- nobody waits.
CREATE FUNCTION tasks.wake_waiter(p_resource text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE v_waiter tasks.resource_waiters; v_status task_status_type;
BEGIN
  LOOP
    SELECT * INTO v_waiter FROM tasks.resource_waiters w
    WHERE w.resource = p_resource ORDER BY w.priority DESC, w.task_id LIMIT 1 FOR UPDATE SKIP LOCKED;
    IF NOT FOUND THEN
      RETURN NULL;
    END IF;
    DELETE FROM tasks.resource_waiters w WHERE w.task_id = v_waiter.task_id;
    UPDATE tasks.queue q SET
      blocked_by = greatest(q.blocked_by - 1, 0),
      status = CASE WHEN q.status = 'pending' AND q.blocked_by <= 1 AND COALESCE(q.scheduled_at, now()) <= now()
        THEN 'queued' ELSE q.status END,
      status_reason = CASE WHEN q.status = 'pending' THEN NULL ELSE q.status_reason END
    WHERE q.task_id = v_waiter.task_id AND q.task_type = v_waiter.task_type
    RETURNING q.status INTO v_status;
    IF v_status = 'queued' THEN
      RETURN v_waiter.task_type;
    END IF;
  END LOOP;
END $$;

CREATE FUNCTION tasks.free_resources() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE v_resource text;
BEGIN
  FOR v_resource IN
    WITH freed AS (DELETE FROM tasks.resource_holders h WHERE h.task_id = OLD.task_id RETURNING h.resource)
    SELECT f.resource FROM freed f ORDER BY 1
  LOOP
    PERFORM tasks.wake_waiter(v_resource);
  END LOOP;
  RETURN NULL;
END $$;
CREATE TRIGGER free_resources AFTER UPDATE OF status ON tasks.queue
  FOR EACH ROW WHEN (OLD.resources IS NOT NULL AND OLD.status = 'running' AND NEW.status <> 'running')
  EXECUTE FUNCTION tasks.free_resources();

-- A key that is to be free when its task starts: this trigger is of tasks.queue, which this migration has locked already.
CREATE TRIGGER free_unique_key_at_start AFTER UPDATE OF status ON tasks.queue
  FOR EACH ROW WHEN (NEW.status = 'running' AND OLD.status <> 'running' AND NEW.unique_key IS NOT NULL)
  EXECUTE FUNCTION tasks.free_unique_key();
