DROP TABLE monitoring.process_pools;
