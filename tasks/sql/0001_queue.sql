-- Guide 9.2 tasks.queue. pending: blocked or scheduled; queued: ready; running: leased until lease_until by the agent in
-- `worker`. attempt counts claims and fences late writers. blocked_by counts open dependencies. Only queued rows are in
-- the ready index, so neither history nor future tasks slow a claim.
CREATE TABLE tasks.queue (
  task_id task_id_type NOT NULL DEFAULT partitions.uuid7(),
  task_type varchar(100) NOT NULL,
  task_name varchar(255),
  assigned_agent_id agent_id_type REFERENCES agents.registry ON DELETE SET NULL,
  created_by_agent_id agent_id_type REFERENCES agents.registry ON DELETE SET NULL,
  parent_task_id task_id_type REFERENCES tasks.identity ON DELETE SET NULL,
  payload jsonb NOT NULL DEFAULT '{}',
  configuration jsonb NOT NULL DEFAULT '{}',
  metadata jsonb NOT NULL DEFAULT '{}',
  status task_status_type NOT NULL DEFAULT 'pending',
  status_reason text,
  priority task_priority_type NOT NULL DEFAULT 'normal',
  scheduled_at timestamptz,
  started_at timestamptz,
  completed_at timestamptz,
  expires_at timestamptz,
  max_execution_time interval NOT NULL DEFAULT '1 hour',
  max_retries integer NOT NULL DEFAULT 3,
  retry_count integer NOT NULL DEFAULT 0,
  attempt integer NOT NULL DEFAULT 0,
  worker uuid,
  lease_until timestamptz,
  blocked_by integer NOT NULL DEFAULT 0,
  unique_key varchar(255),
  concurrency_key varchar(255),
  progress jsonb,
  created_at timestamptz NOT NULL DEFAULT now(),
  updated_at timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (task_id, task_type),
  CONSTRAINT valid_task_type CHECK (length(task_type) > 0),
  CONSTRAINT valid_retry_count CHECK (retry_count >= 0 AND retry_count <= max_retries),
  CONSTRAINT valid_attempt CHECK (attempt >= 0),
  CONSTRAINT valid_blocked_by CHECK (blocked_by >= 0),
  CONSTRAINT valid_max_execution_time CHECK (max_execution_time > interval '0'),
  CONSTRAINT valid_timing CHECK (
    (started_at IS NULL OR started_at >= created_at)
    AND (completed_at IS NULL OR completed_at >= COALESCE(started_at, created_at))
    AND (expires_at IS NULL OR expires_at > created_at)),
  CONSTRAINT valid_status_timing CHECK (
    (completed_at IS NOT NULL) = (status IN ('completed', 'failed', 'cancelled'))
    AND (status <> 'running' OR started_at IS NOT NULL)),
  CONSTRAINT no_self_parent CHECK (task_id <> parent_task_id)
) PARTITION BY LIST (task_type);

CREATE INDEX idx_tasks_queue_ready ON tasks.queue (priority DESC, created_at) WHERE status = 'queued';
CREATE INDEX idx_tasks_queue_status ON tasks.queue (status, created_at);
CREATE INDEX idx_tasks_queue_lease ON tasks.queue (lease_until) WHERE status = 'running';
CREATE INDEX idx_tasks_queue_assigned_agent ON tasks.queue (assigned_agent_id, status)
  WHERE assigned_agent_id IS NOT NULL;
CREATE INDEX idx_tasks_queue_created_by ON tasks.queue (created_by_agent_id) WHERE created_by_agent_id IS NOT NULL;
CREATE INDEX idx_tasks_queue_parent ON tasks.queue (parent_task_id) WHERE parent_task_id IS NOT NULL;
CREATE INDEX idx_tasks_queue_scheduled ON tasks.queue (scheduled_at)
  WHERE scheduled_at IS NOT NULL AND status = 'pending';
CREATE INDEX idx_tasks_queue_expires ON tasks.queue (expires_at)
  WHERE expires_at IS NOT NULL AND status IN ('pending', 'queued');
CREATE INDEX idx_tasks_queue_payload_gin ON tasks.queue USING gin (payload jsonb_path_ops);

CREATE TRIGGER touch BEFORE UPDATE ON tasks.queue
  FOR EACH ROW WHEN (OLD.* IS DISTINCT FROM NEW.*) EXECUTE FUNCTION touch_updated_at();

CREATE FUNCTION tasks.keep_identity() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF TG_OP = 'INSERT' THEN
    INSERT INTO tasks.identity VALUES (NEW.task_id, NEW.task_type);
    RETURN NEW;
  ELSIF TG_OP = 'DELETE' THEN
    DELETE FROM tasks.identity WHERE task_id = OLD.task_id;
    RETURN NULL;
  END IF;
  RAISE EXCEPTION 'task_id and task_type of a task never change'
    USING ERRCODE = 'integrity_constraint_violation', HINT = 'enqueue a new task instead';
END $$;
CREATE TRIGGER identity_of_insert BEFORE INSERT ON tasks.queue
  FOR EACH ROW EXECUTE FUNCTION tasks.keep_identity();
CREATE TRIGGER identity_of_update BEFORE UPDATE ON tasks.queue
  FOR EACH ROW WHEN (OLD.task_type IS DISTINCT FROM NEW.task_type OR OLD.task_id IS DISTINCT FROM NEW.task_id)
  EXECUTE FUNCTION tasks.keep_identity();
CREATE TRIGGER identity_of_delete AFTER DELETE ON tasks.queue
  FOR EACH ROW EXECUTE FUNCTION tasks.keep_identity();

-- A task that waits for nothing is ready at once, whoever inserts it and however.
CREATE FUNCTION tasks.make_ready() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  NEW.status := 'queued';
  RETURN NEW;
END $$;
CREATE TRIGGER ready_at_insert BEFORE INSERT ON tasks.queue
  FOR EACH ROW WHEN (
    NEW.status = 'pending' AND NEW.blocked_by = 0 AND (NEW.scheduled_at IS NULL OR NEW.scheduled_at <= now()))
  EXECUTE FUNCTION tasks.make_ready();

-- rows of types that nobody has registered
CREATE TABLE tasks.queue_default PARTITION OF tasks.queue DEFAULT WITH (fillfactor = 85);
