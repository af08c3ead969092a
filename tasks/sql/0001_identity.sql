-- What a table partitioned by task_type cannot give: a task_id that is unique over all types, and something that
-- foreign keys of one column can point to. Filled by triggers on tasks.queue.
CREATE TABLE tasks.identity (
  task_id task_id_type PRIMARY KEY,
  task_type varchar(100) NOT NULL
);
