-- Registered task types: each has its own leaf of tasks.queue.
CREATE TABLE tasks.types (
  task_type varchar(100) PRIMARY KEY,
  partition_name varchar(127) NOT NULL,
  options jsonb NOT NULL DEFAULT '{}',
  registered_at timestamptz NOT NULL DEFAULT now(),
  CONSTRAINT valid_task_type CHECK (length(task_type) > 0)
);
