DROP TABLE agents.type_settings;
