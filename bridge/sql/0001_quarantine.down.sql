DROP TABLE bridge.quarantine;
