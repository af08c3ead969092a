-- How long finished tasks stay, where an operator says something else than the handler.
CREATE TABLE tasks.retention (
  task_type varchar(100) PRIMARY KEY,
  keep_completed_days double precision,
  keep_failed_days double precision,
  keep_cancelled_days double precision,
  declared_by varchar(150) NOT NULL DEFAULT '',
  updated_at timestamptz NOT NULL DEFAULT now(),
  CONSTRAINT valid_task_type CHECK (length(task_type) > 0),
  CONSTRAINT valid_keep_days CHECK (keep_completed_days >= 0 AND keep_failed_days >= 0 AND keep_cancelled_days >= 0)
);
COMMENT ON TABLE tasks.retention IS 'NULL: as the handler declares; the type * is for those that nobody registered';

-- The last slot of each recurring task that was seen to: whoever moves it on enqueues, so no slot is done twice.
CREATE TABLE tasks.recurring_slots (
  name varchar(200) PRIMARY KEY,
  last_slot timestamptz NOT NULL,
  last_task_id uuid,
  updated_at timestamptz NOT NULL DEFAULT now(),
  CONSTRAINT valid_name CHECK (length(name) > 0)
);
