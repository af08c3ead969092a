CREATE TABLE monitoring.alarm_events (
  event_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  rule_id bigint NOT NULL REFERENCES monitoring.alarm_rules ON DELETE CASCADE,
  from_state text NOT NULL,
  to_state text NOT NULL,
  value double precision,
  was_silenced boolean NOT NULL DEFAULT false,
  happened_at timestamptz NOT NULL DEFAULT now(),
  CONSTRAINT another_alarm_state CHECK (from_state <> to_state)
);
-- the history of a rule, newest first; the foreign key; retention
CREATE INDEX idx_monitoring_alarm_events_rule ON monitoring.alarm_events (rule_id, event_id);
CREATE INDEX idx_monitoring_alarm_events_time ON monitoring.alarm_events (happened_at);
