-- Where each agent's state is: no row means cold (PostgreSQL alone). Moves are compare-and-set updates of phase.
CREATE TABLE bridge.hydration (
  agent_id uuid PRIMARY KEY REFERENCES agents.registry ON DELETE CASCADE,
  phase varchar(10) NOT NULL DEFAULT 'cold',
  keys integer NOT NULL DEFAULT 0,
  stored integer NOT NULL DEFAULT 0,
  error text NOT NULL DEFAULT '',
  moved_at timestamptz NOT NULL DEFAULT now(),
  hydrated_at timestamptz,
  CONSTRAINT valid_phase CHECK (phase IN ('cold', 'hydrating', 'active', 'flushing', 'expired')),
  CONSTRAINT valid_counts CHECK (keys >= 0 AND stored BETWEEN 0 AND keys)
);
COMMENT ON COLUMN bridge.hydration.keys IS 'live rows at the last hydration; stored: those that KV lacked';
