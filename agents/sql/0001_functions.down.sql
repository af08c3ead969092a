DELETE FROM partitions.policies WHERE table_name LIKE 'agents.%';
DROP TRIGGER history_of_delete ON agents.state;
DROP TRIGGER history_of_update ON agents.state;
DROP TRIGGER history_of_insert ON agents.state;
DROP FUNCTION agents.write_state_history() CASCADE;  -- with the copies of its triggers on the leaves
DROP FUNCTION agents.hydrate_agent_state(uuid);
