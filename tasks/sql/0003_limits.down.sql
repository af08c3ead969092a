DROP FUNCTION tasks.pick_limited(text, uuid, integer);
DROP FUNCTION tasks.pick_by_key(text, uuid, integer, integer);
DROP FUNCTION tasks.free_slots(tasks.limits, integer);
DROP TABLE tasks.starts;
DROP TABLE tasks.limits;
DROP TABLE tasks.queue_pauses;
ALTER TABLE tasks.pauses DROP COLUMN paused_until;
ALTER TABLE tasks.types DROP COLUMN queue;
