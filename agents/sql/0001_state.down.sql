DROP TABLE agents.state;
DROP FUNCTION agents.bump_state();
