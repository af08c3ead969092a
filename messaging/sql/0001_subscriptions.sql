-- Guide 9.2 messages.subscriptions. Without a pattern an agent has one subscription per channel: NULLs are equal here.
-- A pattern is dotted tokens; `*` is one whole token, `>` the last.
CREATE TABLE messages.subscriptions (
  subscription_id uuid PRIMARY KEY DEFAULT partitions.uuid7(),
  agent_id agent_id_type NOT NULL REFERENCES agents.registry ON DELETE CASCADE,
  channel_id uuid NOT NULL REFERENCES messages.channels ON DELETE CASCADE,
  message_pattern varchar(255),
  filters jsonb NOT NULL DEFAULT '{}',
  is_active boolean NOT NULL DEFAULT true,
  created_at timestamptz NOT NULL DEFAULT now(),
  CONSTRAINT one_subscription UNIQUE NULLS NOT DISTINCT (agent_id, channel_id, message_pattern),
  CONSTRAINT valid_message_pattern CHECK (
    message_pattern ~ '^((\*|[^.*>[:space:]]+)\.)*(\*|>|[^.*>[:space:]]+)$')
);
-- who listens to a channel; also found by the foreign key when a channel is deleted
CREATE INDEX idx_messages_subscriptions_channel ON messages.subscriptions (channel_id, is_active);
