DROP TABLE knowledge.models;
