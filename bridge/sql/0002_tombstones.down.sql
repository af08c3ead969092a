DROP TABLE bridge.tombstones;
