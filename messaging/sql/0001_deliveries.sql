-- One row per message and recipient. No foreign key to the message: both are history, and their partitions drop apart.
CREATE TABLE messages.deliveries (
  delivery_id uuid PRIMARY KEY DEFAULT partitions.uuid7(),
  message_id message_id_type NOT NULL,
  agent_id agent_id_type NOT NULL REFERENCES agents.registry ON DELETE CASCADE,
  state varchar(20) NOT NULL DEFAULT 'pending',
  attempts integer NOT NULL DEFAULT 0,
  next_at timestamptz,
  error text,
  created_at timestamptz GENERATED ALWAYS AS (partitions.uuid7_time(delivery_id)) STORED,
  delivered_at timestamptz,
  processed_at timestamptz,
  CONSTRAINT valid_state CHECK (state IN ('pending', 'delivered', 'processed', 'failed', 'expired')),
  CONSTRAINT valid_attempts CHECK (attempts >= 0),
  CONSTRAINT pending_has_a_time CHECK ((state = 'pending') = (next_at IS NOT NULL)),
  CONSTRAINT delivered_has_a_time CHECK (state NOT IN ('delivered', 'processed') OR delivered_at IS NOT NULL),
  CONSTRAINT processed_has_a_time CHECK ((state = 'processed') = (processed_at IS NOT NULL)),
  CONSTRAINT failed_has_an_error CHECK (state <> 'failed' OR COALESCE(length(error), 0) > 0)
) PARTITION BY RANGE (delivery_id);
COMMENT ON COLUMN messages.deliveries.next_at IS 'when a pending delivery is tried next; NULL once it is over';

-- what is due
CREATE INDEX idx_messages_deliveries_due ON messages.deliveries (next_at) WHERE state = 'pending';
-- who got a message
CREATE INDEX idx_messages_deliveries_message ON messages.deliveries (message_id);
-- an agent's deliveries, newest first; also found by the foreign key when an agent is deleted
CREATE INDEX idx_messages_deliveries_agent ON messages.deliveries (agent_id, delivery_id);
