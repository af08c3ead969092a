DROP TABLE partitions.marks;
