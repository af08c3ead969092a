DROP TABLE tasks.executions;
