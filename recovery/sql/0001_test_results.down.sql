DROP TABLE recovery.test_results;
