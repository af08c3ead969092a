DROP TABLE operators.bulk_jobs;
