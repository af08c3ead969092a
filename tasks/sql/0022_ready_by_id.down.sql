DROP INDEX tasks.idx_tasks_queue_ready;
CREATE INDEX idx_tasks_queue_ready ON tasks.queue (priority DESC, created_at) WHERE status = 'queued';
