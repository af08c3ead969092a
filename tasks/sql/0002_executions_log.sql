-- The last lines that an attempt logged, for people.
ALTER TABLE tasks.executions ADD COLUMN log_lines text;
