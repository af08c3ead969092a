DROP TABLE bridge.sources;
