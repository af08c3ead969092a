-- A paused type is one row here; no task is touched.
CREATE TABLE tasks.pauses (
  task_type varchar(100) PRIMARY KEY,
  reason text NOT NULL DEFAULT '',
  paused_by varchar(150) NOT NULL DEFAULT '',
  paused_at timestamptz NOT NULL DEFAULT now(),
  CONSTRAINT valid_task_type CHECK (length(task_type) > 0)
);
