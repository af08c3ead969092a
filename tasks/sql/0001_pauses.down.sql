DROP TABLE tasks.pauses;
