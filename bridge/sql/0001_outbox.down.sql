DROP TABLE bridge.outbox;
