CREATE TABLE monitoring.notifications (
  notification_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  event_id bigint NOT NULL REFERENCES monitoring.alarm_events ON DELETE CASCADE,
  channel_id bigint NOT NULL REFERENCES monitoring.alarm_channels ON DELETE CASCADE,
  status text NOT NULL DEFAULT 'pending',
  attempts integer NOT NULL DEFAULT 0,
  next_at timestamptz NOT NULL DEFAULT now(),
  sent_at timestamptz,
  error text NOT NULL DEFAULT '',
  CONSTRAINT one_notification UNIQUE (event_id, channel_id),
  CONSTRAINT valid_notification_status CHECK (status IN ('pending', 'sent', 'failed')),
  CONSTRAINT sent_notification CHECK ((sent_at IS NOT NULL) = (status = 'sent')),
  CONSTRAINT valid_notification_attempts CHECK (attempts >= 0)
);
-- what is to be sent now
CREATE INDEX idx_monitoring_notifications_due ON monitoring.notifications (next_at) WHERE status = 'pending';
-- the foreign key when a channel goes
CREATE INDEX idx_monitoring_notifications_channel ON monitoring.notifications (channel_id);
