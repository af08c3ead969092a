DROP TABLE tasks.unique_keys;
