DROP TABLE partitions.archives;
