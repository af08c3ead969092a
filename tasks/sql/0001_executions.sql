-- Guide 9.2 tasks.executions, partitioned by the id itself. No foreign key to the task: history outlives it, and
-- partitions drop without a lock on it (recovery.verify_data_consistency looks instead).
CREATE TABLE tasks.executions (
  execution_id uuid PRIMARY KEY DEFAULT partitions.uuid7(),
  task_id task_id_type NOT NULL,
  agent_id agent_id_type NOT NULL REFERENCES agents.registry,
  execution_attempt integer NOT NULL DEFAULT 1,
  started_at timestamptz NOT NULL DEFAULT now(),
  completed_at timestamptz,
  status task_status_type NOT NULL DEFAULT 'running',
  result jsonb,
  error_message text,
  error_details jsonb,
  cpu_time_ms bigint,
  memory_peak_mb integer,
  io_operations bigint,
  CONSTRAINT valid_execution_attempt CHECK (execution_attempt > 0),
  CONSTRAINT valid_timing CHECK (completed_at IS NULL OR completed_at >= started_at),
  CONSTRAINT started_at_matches_id CHECK (
    abs(extract(epoch FROM started_at - partitions.uuid7_time(execution_id))) <= 300),
  CONSTRAINT completion_consistency CHECK (CASE status
    WHEN 'completed' THEN completed_at IS NOT NULL AND result IS NOT NULL AND error_message IS NULL
    WHEN 'failed' THEN completed_at IS NOT NULL AND error_message IS NOT NULL
    WHEN 'cancelled' THEN completed_at IS NOT NULL
    ELSE completed_at IS NULL AND result IS NULL END)
) PARTITION BY RANGE (execution_id);
CREATE INDEX idx_tasks_executions_task ON tasks.executions (task_id, execution_id);
CREATE INDEX idx_tasks_executions_agent ON tasks.executions (agent_id, execution_id);
CREATE INDEX idx_tasks_executions_open ON tasks.executions (started_at) WHERE completed_at IS NULL;
