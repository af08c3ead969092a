CREATE TABLE agents.type_settings (
  agent_type varchar(50) PRIMARY KEY,
  keep_state_history boolean NOT NULL DEFAULT false,
  suspect_after_seconds integer NOT NULL DEFAULT 60,
  lost_after_seconds integer NOT NULL DEFAULT 180,
  CONSTRAINT valid_agent_type CHECK (length(agent_type) > 0),
  CONSTRAINT valid_liveness_limits CHECK (suspect_after_seconds > 0 AND lost_after_seconds > suspect_after_seconds)
);
