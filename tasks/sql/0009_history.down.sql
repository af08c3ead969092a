DROP TABLE tasks.recurring_slots;
DROP TABLE tasks.retention;
