DROP TABLE bridge.conflict;
