DROP TABLE tasks.identity;
