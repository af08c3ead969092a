CREATE INDEX idx_messages_log_undelivered ON messages.log (to_agent_id, sent_at) WHERE delivered_at IS NULL;
