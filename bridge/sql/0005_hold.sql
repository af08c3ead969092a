-- A server that was restored to an earlier moment and whose JetStream is not brought to that moment yet. While the row is
-- there nobody publishes, flushes or makes streams (bridge/hold.py): outbox ids of the lost future may lie in JetStream.
CREATE TABLE bridge.hold (
  hold_id smallint PRIMARY KEY DEFAULT 1,
  reason text NOT NULL,
  details jsonb NOT NULL DEFAULT '{}',
  since timestamptz NOT NULL DEFAULT now(),
  CONSTRAINT one_hold CHECK (hold_id = 1),
  CONSTRAINT says_why CHECK (reason <> '')
);
COMMENT ON COLUMN bridge.hold.details IS 'what was restored: target, position, the cross-system backup if there is one';
