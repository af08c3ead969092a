-- Alarms: a rule watches one metric of the registry and has a state; each change of state is an event; each event that
-- somebody is to hear of is a notification, written in the same transaction and sent by a job of its own.
CREATE TABLE monitoring.alarm_rules (
  rule_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  name text NOT NULL,
  description text NOT NULL DEFAULT '',
  hint text NOT NULL DEFAULT '',
  metric text NOT NULL,
  labels jsonb NOT NULL DEFAULT '{}',
  direction text NOT NULL DEFAULT 'above',
  warning double precision,
  critical double precision,
  clear_margin double precision NOT NULL DEFAULT 0,
  hold_seconds integer NOT NULL DEFAULT 0,
  is_enabled boolean NOT NULL DEFAULT true,
  state text NOT NULL DEFAULT 'ok',
  state_since timestamptz NOT NULL DEFAULT now(),
  pending_state text,
  pending_since timestamptz,
  value double precision,
  problem text NOT NULL DEFAULT '',
  evaluated_at timestamptz,
  silenced_until timestamptz,
  silence_reason text NOT NULL DEFAULT '',
  CONSTRAINT one_rule_of_a_name UNIQUE (name),
  CONSTRAINT named_rule CHECK (name <> '' AND metric <> ''),
  CONSTRAINT valid_labels CHECK (jsonb_typeof(labels) = 'object'),
  CONSTRAINT valid_direction CHECK (direction IN ('above', 'below')),
  CONSTRAINT some_threshold CHECK (num_nonnulls(warning, critical) > 0),
  CONSTRAINT warning_comes_first CHECK (
    warning IS NULL OR critical IS NULL OR CASE direction WHEN 'above' THEN warning <= critical ELSE warning >= critical END),
  CONSTRAINT valid_clear_margin CHECK (clear_margin >= 0),
  CONSTRAINT valid_hold_seconds CHECK (hold_seconds BETWEEN 0 AND 86400),
  CONSTRAINT valid_alarm_state CHECK (state IN ('ok', 'warning', 'critical')),
  CONSTRAINT whole_pending_state CHECK (
    (pending_state IS NULL) = (pending_since IS NULL) AND pending_state IN ('ok', 'warning', 'critical'))
);
