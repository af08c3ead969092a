DROP TABLE bridge.dead_letters;
