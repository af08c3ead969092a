CREATE TABLE monitoring.alarm_channels (
  channel_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  name text NOT NULL,
  kind text NOT NULL,
  target text NOT NULL,
  minimum_state text NOT NULL DEFAULT 'warning',
  is_enabled boolean NOT NULL DEFAULT true,
  CONSTRAINT one_channel_of_a_name UNIQUE (name),
  CONSTRAINT named_channel CHECK (name <> '' AND target <> ''),
  CONSTRAINT valid_channel_kind CHECK (kind IN ('webhook', 'email', 'nats')),
  CONSTRAINT valid_minimum_state CHECK (minimum_state IN ('warning', 'critical'))
);
