-- The state machine of tasks: every move that is allowed, for any client.
CREATE TABLE tasks.status_transitions (
  previous_status task_status_type NOT NULL,
  new_status task_status_type NOT NULL,
  PRIMARY KEY (previous_status, new_status)
);
INSERT INTO tasks.status_transitions VALUES
  ('pending', 'queued'), ('pending', 'paused'), ('pending', 'cancelled'), ('pending', 'failed'),
  ('queued', 'running'), ('queued', 'pending'), ('queued', 'paused'), ('queued', 'cancelled'), ('queued', 'failed'),
  ('running', 'completed'), ('running', 'failed'), ('running', 'cancelled'),
  ('running', 'queued'), ('running', 'pending'), ('running', 'paused'),
  ('paused', 'queued'), ('paused', 'pending'), ('paused', 'running'), ('paused', 'cancelled'), ('paused', 'failed'),
  -- an operator's retry or redrive
  ('failed', 'queued'), ('failed', 'pending'), ('cancelled', 'queued'), ('cancelled', 'pending');

CREATE FUNCTION tasks.check_status_transition() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF NOT EXISTS (
    SELECT FROM tasks.status_transitions t
    WHERE t.previous_status = OLD.status AND t.new_status = NEW.status
  ) THEN
    RAISE EXCEPTION 'task % cannot go from % to %', OLD.task_id, OLD.status, NEW.status
      USING ERRCODE = 'check_violation', CONSTRAINT = 'allowed_status_transition', SCHEMA = 'tasks', TABLE = 'queue',
            HINT = 'allowed moves are in tasks.status_transitions';
  END IF;
  RETURN NEW;
END $$;
CREATE TRIGGER check_status BEFORE UPDATE OF status ON tasks.queue
  FOR EACH ROW WHEN (OLD.status IS DISTINCT FROM NEW.status) EXECUTE FUNCTION tasks.check_status_transition();
