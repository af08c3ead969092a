DROP TRIGGER lifecycle_of_update ON agents.registry;
DROP TRIGGER lifecycle_of_insert ON agents.registry;
DROP FUNCTION agents.write_lifecycle_event();
DROP TRIGGER check_status ON agents.registry;
DROP FUNCTION agents.check_status_transition();
DROP TABLE agents.status_transitions;
