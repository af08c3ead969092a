-- Of tasks that were enqueued together, and so at the same moment, the claim takes the first ids first, wherever their rows lie by
-- now: those that wait for a few neighbours are released by one turn, not little by little by several.
DROP INDEX tasks.idx_tasks_queue_ready;
CREATE INDEX idx_tasks_queue_ready ON tasks.queue (priority DESC, created_at, task_id) WHERE status = 'queued';
