ALTER TABLE tasks.executions DROP COLUMN log_lines;
