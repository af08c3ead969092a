-- A pause of one task. A waiting one is set aside (status paused). A running one goes on until its handler comes to a place
-- where it may stand still: it keeps its lease, its slot and its resources meanwhile, so its status stays running, and the
-- time that it stands still is added to its time limit.
CREATE TABLE tasks.task_pauses (
  task_id task_id_type PRIMARY KEY REFERENCES tasks.identity ON DELETE CASCADE,
  reason text NOT NULL DEFAULT '',
  paused_by varchar(150) NOT NULL DEFAULT '',
  paused_at timestamptz NOT NULL DEFAULT now(),
  paused_until timestamptz,
  resumed_at timestamptz,
  stands_since timestamptz,
  CONSTRAINT valid_pause CHECK (paused_until > paused_at)
);
COMMENT ON COLUMN tasks.task_pauses.resumed_at IS 'the pause is over; the row stays until the handler that stands still has gone on';
COMMENT ON COLUMN tasks.task_pauses.stands_since IS 'since when its handler stands still; NULL: it does not';
