DROP TABLE partitions.runs;
