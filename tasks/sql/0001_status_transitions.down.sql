DROP TRIGGER check_status ON tasks.queue;
DROP FUNCTION tasks.check_status_transition();
DROP TABLE tasks.status_transitions;
