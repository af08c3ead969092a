-- Guide 9.2 messages.channels. The guide's index on (channel_name) is the UNIQUE one.
CREATE TABLE messages.channels (
  channel_id uuid PRIMARY KEY DEFAULT partitions.uuid7(),
  channel_name varchar(255) UNIQUE NOT NULL,
  channel_type varchar(50) NOT NULL,
  description text,
  configuration jsonb NOT NULL DEFAULT '{}',
  is_active boolean NOT NULL DEFAULT true,
  created_at timestamptz NOT NULL DEFAULT now(),
  CONSTRAINT valid_channel_name CHECK (length(channel_name) > 0),
  CONSTRAINT valid_channel_type CHECK (channel_type IN ('broadcast', 'direct', 'topic', 'queue'))
);
