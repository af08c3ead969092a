-- One row per message and recipient. No foreign key to the message: both are history, and their partitions drop apart.
-- A message to a queue has one row that all subscribers share: agent_id is who has it now, or nobody.
CREATE TABLE messages.deliveries (
  delivery_id uuid PRIMARY KEY DEFAULT partitions.uuid7(),
  message_id message_id_type NOT NULL,
  agent_id agent_id_type REFERENCES agents.registry ON DELETE CASCADE,
  queue_id uuid,
  state varchar(20) NOT NULL DEFAULT 'pending',
  priority integer NOT NULL DEFAULT 0,
  attempts integer NOT NULL DEFAULT 0,
  next_at timestamptz,
  expires_at timestamptz NOT NULL DEFAULT now() + interval '7 days',
  error text,
  created_at timestamptz GENERATED ALWAYS AS (partitions.uuid7_time(delivery_id)) STORED,
  delivered_at timestamptz,
  processed_at timestamptz,
  CONSTRAINT valid_state CHECK (state IN ('pending', 'delivered', 'processed', 'failed', 'expired')),
  CONSTRAINT valid_priority CHECK (priority BETWEEN 0 AND 10),
  CONSTRAINT valid_attempts CHECK (attempts >= 0),
  CONSTRAINT has_recipient CHECK (
    agent_id IS NOT NULL OR (queue_id IS NOT NULL AND state NOT IN ('delivered', 'processed'))),
  CONSTRAINT open_has_a_time CHECK ((state IN ('pending', 'delivered')) = (next_at IS NOT NULL)),
  CONSTRAINT delivered_has_a_time CHECK (state NOT IN ('delivered', 'processed') OR delivered_at IS NOT NULL),
  CONSTRAINT processed_has_a_time CHECK ((state = 'processed') = (processed_at IS NOT NULL)),
  CONSTRAINT failed_has_an_error CHECK (state <> 'failed' OR COALESCE(length(error), 0) > 0)
) PARTITION BY RANGE (delivery_id);
COMMENT ON COLUMN messages.deliveries.queue_id IS 'the queue channel whose subscribers share it; NULL: it is for agent_id alone';
COMMENT ON COLUMN messages.deliveries.next_at IS
  'pending: not before; delivered: tried again unless acknowledged by then; NULL once it is over';

-- what an agent may take, and what a queue's subscribers may: urgent first, then the oldest; only open ones
CREATE INDEX idx_messages_deliveries_inbox ON messages.deliveries (agent_id, priority DESC, delivery_id)
  WHERE queue_id IS NULL AND next_at IS NOT NULL;
CREATE INDEX idx_messages_deliveries_queue ON messages.deliveries (queue_id, priority DESC, delivery_id)
  WHERE queue_id IS NOT NULL AND next_at IS NOT NULL;
-- what is due, and for how long
CREATE INDEX idx_messages_deliveries_due ON messages.deliveries (next_at) WHERE next_at IS NOT NULL;
-- what nobody took in time
CREATE INDEX idx_messages_deliveries_expires ON messages.deliveries (expires_at) WHERE next_at IS NOT NULL;
-- the dead, the oldest first
CREATE INDEX idx_messages_deliveries_failed ON messages.deliveries (created_at) WHERE state = 'failed';
-- who got a message
CREATE INDEX idx_messages_deliveries_message ON messages.deliveries (message_id);
-- an agent's deliveries, newest first; also found by the foreign key when an agent is deleted
CREATE INDEX idx_messages_deliveries_agent ON messages.deliveries (agent_id, delivery_id);
