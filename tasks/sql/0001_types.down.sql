DROP TABLE tasks.types;
