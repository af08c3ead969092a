DROP INDEX tasks.idx_tasks_queue_ready_key;
