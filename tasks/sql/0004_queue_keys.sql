-- Ready tasks by key, for types that look at keys. Tasks without a key are not in it.
CREATE INDEX idx_tasks_queue_ready_key ON tasks.queue (concurrency_key, priority DESC, created_at)
  WHERE status = 'queued' AND concurrency_key IS NOT NULL;
