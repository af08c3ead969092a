DROP TABLE tasks.task_pauses;
