DROP TRIGGER free_unique_key_at_start ON tasks.queue;
DROP TRIGGER free_resources ON tasks.queue;
DROP FUNCTION tasks.free_resources();
DROP FUNCTION tasks.wake_waiter(text);
DROP TRIGGER acquire_resources ON tasks.queue;
DROP FUNCTION tasks.take_resources();
DROP TABLE tasks.resource_waiters;
DROP TABLE tasks.resource_holders;
ALTER TABLE tasks.queue DROP COLUMN resources;
