DROP TABLE tasks.queue;
DROP FUNCTION tasks.make_ready();
DROP FUNCTION tasks.keep_identity();
