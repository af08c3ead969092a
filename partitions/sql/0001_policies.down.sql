DROP TABLE partitions.policies;
