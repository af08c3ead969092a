-- Guide 9.2 messages.log, partitioned by the id itself: PRIMARY KEY (message_id) stays as the guide has it. A time
-- window is a window of ids; the CHECK keeps sent_at within 5 minutes of the id's time, so that both mean the same.
CREATE TABLE messages.log (
  message_id message_id_type PRIMARY KEY DEFAULT partitions.uuid7(),
  channel_id uuid REFERENCES messages.channels,
  from_agent_id agent_id_type REFERENCES agents.registry,
  to_agent_id agent_id_type REFERENCES agents.registry,
  broadcast_to_type varchar(50),
  message_type message_type NOT NULL,
  subject varchar(255),
  payload jsonb NOT NULL DEFAULT '{}',
  headers jsonb NOT NULL DEFAULT '{}',
  correlation_id uuid,
  reply_to varchar(255),
  sent_at timestamptz NOT NULL DEFAULT now(),
  delivered_at timestamptz,
  processed_at timestamptz,
  delivery_attempts integer NOT NULL DEFAULT 0,
  priority integer NOT NULL DEFAULT 0,
  expires_at timestamptz,
  is_persistent boolean NOT NULL DEFAULT true,
  CONSTRAINT sent_at_matches_id CHECK (
    abs(extract(epoch FROM sent_at - partitions.uuid7_time(message_id))) <= 300),
  CONSTRAINT valid_priority CHECK (priority BETWEEN 0 AND 10),
  CONSTRAINT valid_delivery_attempts CHECK (delivery_attempts >= 0),
  CONSTRAINT valid_expiry CHECK (expires_at > sent_at),
  -- one direct or one broadcast target; a channel alone is a route too; a heartbeat needs none
  CONSTRAINT routing_consistency CHECK (
    num_nonnulls(to_agent_id, broadcast_to_type) = 1
    OR (num_nonnulls(to_agent_id, broadcast_to_type) = 0
        AND (channel_id IS NOT NULL OR message_type = 'heartbeat')))
) PARTITION BY RANGE (message_id);
COMMENT ON COLUMN messages.log.delivered_at IS 'when the first recipient had it; NULL: nobody yet';
COMMENT ON COLUMN messages.log.processed_at IS 'when the first recipient was done with it; NULL: nobody yet';

-- an agent's messages, newest first; also found by the foreign keys when an agent or a channel is deleted
CREATE INDEX idx_messages_log_from ON messages.log (from_agent_id, message_id) WHERE from_agent_id IS NOT NULL;
CREATE INDEX idx_messages_log_to ON messages.log (to_agent_id, message_id) WHERE to_agent_id IS NOT NULL;
CREATE INDEX idx_messages_log_channel ON messages.log (channel_id, message_id) WHERE channel_id IS NOT NULL;
-- a query and its response
CREATE INDEX idx_messages_log_correlation ON messages.log (correlation_id) WHERE correlation_id IS NOT NULL;
-- what an agent has not had yet, the oldest first
CREATE INDEX idx_messages_log_undelivered ON messages.log (to_agent_id, sent_at) WHERE delivered_at IS NULL;
