DROP FUNCTION bridge.capture_task_moved() CASCADE;
DROP FUNCTION bridge.capture_task_created() CASCADE;
DROP FUNCTION bridge.task_payload(
  uuid, text, task_status_type, text, task_priority_type, integer, uuid, integer, jsonb, timestamptz,
  timestamptz);
