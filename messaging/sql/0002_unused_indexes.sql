-- What an agent has not had yet is in messages.deliveries.
DROP INDEX messages.idx_messages_log_undelivered;
