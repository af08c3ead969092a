DROP TABLE bridge.hold;
