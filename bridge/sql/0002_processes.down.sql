DROP TABLE bridge.processes;
