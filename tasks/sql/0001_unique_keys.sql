-- Keys that only one open task may hold, over all types (a unique index on the partitioned queue cannot say it).
CREATE TABLE tasks.unique_keys (
  unique_key varchar(255) PRIMARY KEY,
  task_id task_id_type NOT NULL REFERENCES tasks.identity ON DELETE CASCADE,
  CONSTRAINT valid_unique_key CHECK (length(unique_key) > 0)
);
CREATE INDEX idx_tasks_unique_keys_task ON tasks.unique_keys (task_id);
