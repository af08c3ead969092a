DROP FUNCTION touch_updated_at();
DROP FUNCTION text_sha256(text);
DROP FUNCTION default_agent_metadata();
DROP FUNCTION validate_agent_metadata(jsonb);
DROP TYPE message_type, task_priority_type, task_status_type, agent_status_type;
DROP DOMAIN message_id_type, task_id_type, agent_id_type;
