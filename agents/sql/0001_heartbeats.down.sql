DROP TABLE agents.heartbeats;
