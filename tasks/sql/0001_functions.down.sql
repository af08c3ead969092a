DELETE FROM partitions.policies WHERE table_name = 'tasks.executions';
DROP TRIGGER free_unique_key ON tasks.queue;
DROP FUNCTION tasks.free_unique_key();
DROP TRIGGER retake_unique_key ON tasks.queue;
DROP TRIGGER take_unique_key ON tasks.queue;
DROP FUNCTION tasks.take_unique_key();
DROP FUNCTION partitions.create_task_type_partition(text, text);
