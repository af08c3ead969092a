DROP TABLE agents.state_history;
