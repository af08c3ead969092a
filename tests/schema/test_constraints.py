"""Every named constraint trips, and the row beside it goes in."""

import pytest
from django.db import DatabaseError, connection, transaction

from tests.schema.catalog import our_schemas, rows

pytestmark = pytest.mark.django_db

A1, A2 = "'00000000-0000-7000-8000-0000000000a1'", "'00000000-0000-7000-8000-0000000000a2'"
T1, T2 = "'00000000-0000-7000-8000-0000000000b1'", "'00000000-0000-7000-8000-0000000000b2'"
L1 = "'00000000-0000-7000-8000-0000000000e1'"
C1, F1 = "'00000000-0000-7000-8000-0000000000c1'", "'00000000-0000-7000-8000-0000000000f1'"
NEW = "'00000000-0000-7000-8000-0000000000ff'"
NIL = "'00000000-0000-0000-0000-000000000000'"
TOKEN = "sha256('token')"
PAST = "now() - interval '1 day'"
RULE = "(SELECT rule_id FROM monitoring.alarm_rules WHERE name = 'a rule')"
EVENT = "(SELECT event_id FROM monitoring.alarm_events LIMIT 1)"
CHANNEL = "(SELECT channel_id FROM monitoring.alarm_channels WHERE name = 'a channel')"
SETUP = f"""
INSERT INTO monitoring.alarm_rules (name, metric, warning) VALUES ('a rule', 'm', 1);
INSERT INTO monitoring.alarm_events (rule_id, from_state, to_state) VALUES ({RULE}, 'ok', 'warning');
INSERT INTO monitoring.alarm_channels (name, kind, target) VALUES ('a channel', 'email', 'ops@example.org');
INSERT INTO agents.registry (agent_id, agent_type, agent_name) VALUES ({A1}, 'worker', 'a1'), ({A2}, 'worker', 'a2');
INSERT INTO tasks.queue (task_id, task_type) VALUES ({T1}, 'etl'), ({T2}, 'etl');
INSERT INTO tasks.limits (limit_id, scope, name) VALUES ({L1}, 'queue', 'q');
INSERT INTO messages.channels (channel_id, channel_name, channel_type) VALUES ({C1}, 'c1', 'topic');
INSERT INTO knowledge.facts (fact_id, entity_type, entity_id, predicate, object_value, object_type)
VALUES ({F1}, 'e', '1', 'is', '1', 'number');
"""

# a row of each table that goes in, as SQL expressions; the cases below change a column or two of it
VALID = {
    "agents.registry": {"agent_id": NEW, "agent_type": "'worker'", "agent_name": "'new'"},
    "agents.state": {"agent_id": A1, "state_key": "'k'", "state_value": "'1'"},
    "agents.checkpoints": {"agent_id": A1, "state_snapshot": "'{}'"},
    "agents.lifecycle_events": {"agent_id": A1, "event_type": "'started'"},
    "agents.type_settings": {"agent_type": "'reader'"},
    "monitoring.alarm_rules": {"name": "'r'", "metric": "'m'", "warning": "1"},
    "monitoring.alarm_events": {"rule_id": RULE, "from_state": "'ok'", "to_state": "'warning'"},
    "monitoring.snapshots": {"snapshot_id": "partitions.uuid7()", "kind": "'load'", "data": "'{}'"},
    "monitoring.alarm_channels": {"name": "'c'", "kind": "'email'", "target": "'ops@example.org'"},
    "monitoring.notifications": {"event_id": EVENT, "channel_id": CHANNEL},
    "operators.audit": {"actor": "'ann'", "via": "'admin'", "action": "'tasks.cancel'"},
    "operators.bulk_jobs": {"action": "'tasks.cancel'", "requested_by": "'ann'", "via": "'admin'"},
    "tasks.queue": {"task_id": NEW, "task_type": "'etl'"},
    "tasks.dependencies": {"task_id": T2, "depends_on_task_id": T1},
    "tasks.executions": {"task_id": T1, "agent_id": A1},
    "tasks.pauses": {"task_type": "'etl'"},
    "tasks.queue_pauses": {"queue": "'q'"},
    "tasks.task_pauses": {"task_id": T1},
    "tasks.limits": {"scope": "'type'", "name": "'etl'", "max_running": "1"},
    "tasks.starts": {"limit_id": L1, "number": "1"},
    "tasks.resource_holders": {"resource": "'gpu'", "task_id": T1},
    "tasks.resource_waiters": {"task_id": T1, "task_type": "'etl'", "resource": "'gpu'", "priority": "'low'"},
    "tasks.retention": {"task_type": "'etl'"},
    "tasks.recurring_slots": {"name": "'hourly'", "last_slot": "now()"},
    "tasks.types": {"task_type": "'etl'", "partition_name": "'queue_default'"},
    "tasks.unique_keys": {"unique_key": "'k'", "task_id": T1},
    "messages.channels": {"channel_name": "'new'", "channel_type": "'queue'"},
    "messages.subscriptions": {"agent_id": A1, "channel_id": C1},
    "messages.log": {"from_agent_id": A1, "to_agent_id": A2, "message_type": "'command'"},
    "messages.deliveries": {"message_id": NEW, "agent_id": A1, "next_at": "now()"},
    "sessions.active": {
        "session_id": f"sessions.token_id({TOKEN})",
        "token_digest": TOKEN,
        "expires_at": "now() + interval '1 hour'",
    },
    "knowledge.facts": {
        "fact_id": NEW,
        "entity_type": "'e'",
        "entity_id": "'2'",
        "predicate": "'is'",
        "object_value": "'1'",
        "object_type": "'number'",
    },
    "knowledge.models": {
        "model_name": "'m'",
        "model_version": "'1'",
        "dimensions": "4000",
        "provider": "'p'",
    },
    "knowledge.embeddings": {
        "fact_id": F1,
        "embedding_model": "'all-MiniLM-L6-v2'",
        "embedding_version": "'1'",
        "embedding_vector": "array_fill(1::real, ARRAY[384])::halfvec",
        "text_content": "'one'",
    },
    "partitions.policies": {"table_name": "'x.y'"},
    "partitions.runs": {"origin": "'beat'"},
    "partitions.archives": {
        "table_name": "'x.y'",
        "partition_name": "'x.y_1'",
        "partition_oid": "1",
        "lower_time": PAST,
        "upper_time": "now()",
        "location": "'x.y/1.copy.gz'",
        "columns": "ARRAY['n']",
        "table_bytes": "1",
    },
    "partitions.marks": {
        "partition_oid": "1",
        "partition_name": "'x.y_1'",
        "table_name": "'x.y'",
        "lower_time": PAST,
        "upper_time": "now()",
        "kind": "'expiring'",
    },
    "bridge.outbox": {"target": "'t'", "key": "'k'", "op": "'U'", "payload": "'1'"},
    "bridge.quarantine": {
        "outbox_id": "1",
        "target": "'t'",
        "key": "'k'",
        "op": "'U'",
        "created_at": "now()",
        "error": "'e'",
        "attempts": "1",
    },
    "bridge.hydration": {"agent_id": A1},
    "bridge.conflict": {"target": "'t'", "key": "'k'", "base_revision": "1", "kv_revision": "2"},
    "bridge.conflict_rules": {"bucket": "'AGENT_STATE'", "strategy": "'reject'"},
    "bridge.dead_letters": {
        "consumer": "'c'",
        "stream": "'s'",
        "stream_epoch": "1",
        "stream_sequence": "1",
        "subject": "'a.b'",
        "payload": "''",
        "stored_at": "now()",
        "error": "'e'",
    },
    "bridge.sources": {"bucket": "'b'"},
    "bridge.hold": {"reason": "'restored'"},
    "bridge.tombstones": {"bucket": "'b'", "key": "'k'", "kv_epoch": "1", "kv_revision": "1"},
    "recovery.test_results": {"test_type": "'pitr'", "backup_timestamp": "now()"},
    "recovery.backups": {
        "location": "'logical/x'",
        "database_name": "'d'",
        "server_version": "'18.6'",
        "tool_version": "'18.6'",
        "database_bytes": "1",
    },
    "recovery.wal_segments": {
        "name": "'000000010000000000000001'",
        "timeline": "1",
        "number": "1",
        "segment_bytes": "16777216",
        "stored_bytes": "1",
        "archived_at": "now()",
    },
    "recovery.timelines": {"timeline": "2", "parent": "1", "switch_lsn": "0"},
    "recovery.archive_state": {
        "system_identifier": "'7'",
        "timeline": "1",
        "segment_bytes": "16777216",
        "checked_at": "now()",
        "archived_lsn": "0",
    },
    "recovery.restore_points": {"name": "'n'", "timeline": "1", "lsn": "0", "segment": "'s'"},
    "recovery.uploads": {"store": "'s3://bucket'", "key": "'wal/x.gz'", "size_bytes": "1"},
}
SENT = {"uploaded_at": "now()", "stored_bytes": "1", "sha256": "repeat('0', 64)"}
DONE = {"test_status": "'passed'", "test_completed_at": "now()"}
STORED = {
    "status": "'complete'",
    "completed_at": "now()",
    "size_bytes": "1",
    "manifest_sha256": "repeat('0', 64)",
}
MEASURED = {
    "row_count": "1",
    "checksum": "'1'",
    "sha256": "repeat('0', 64)",
    "size_bytes": "1",
    "verified_at": "now()",
}
RANGE = {"kind": "'base'", "system_identifier": "'7'", "timeline": "1", "start_lsn": "1", "end_lsn": "2"}

BREAKS = [
    ("agents.registry", "no_self_parent", {"parent_agent_id": NEW}),
    ("agents.registry", "valid_agent_name", {"agent_name": "''"}),
    ("agents.registry", "valid_agent_type", {"agent_type": "''"}),
    ("agents.registry", "valid_epoch", {"epoch": "0"}),
    ("agents.registry", "valid_liveness", {"liveness": "'dead'"}),
    ("agents.registry", "valid_metadata", {"metadata": "'{}'"}),
    (
        "agents.registry",
        "valid_metadata",
        {"metadata": '\'{"version": 1, "created_at": "9999-99-99T99:99:99Z"}\''},
    ),
    (
        "agents.registry",
        "valid_metadata",
        {"metadata": '\'{"version": null, "created_at": "2026-01-02T03:04:05Z"}\''},
    ),
    ("agents.registry", "valid_metadata", {"metadata": "'null'"}),
    ("agents.state", "future_expiry", {"expires_at": PAST}),
    ("agents.state", "valid_kv_position", {"kv_revision": "-1"}),
    ("agents.state", "valid_kv_position", {"kv_epoch": "-1"}),
    ("agents.state", "valid_state_key", {"state_key": "''"}),
    ("agents.state", "valid_version", {"version": "0"}),
    ("agents.checkpoints", "valid_checkpoint_name", {"checkpoint_name": "''"}),
    ("agents.checkpoints", "valid_kv_revision", {"kv_revision": "-1"}),
    ("agents.lifecycle_events", "status_change", {"previous_status": "'idle'", "new_status": "'idle'"}),
    ("agents.lifecycle_events", "valid_event_type", {"event_type": "''"}),
    ("agents.type_settings", "valid_agent_type", {"agent_type": "''"}),
    ("agents.type_settings", "valid_liveness_limits", {"suspect_after_seconds": "0"}),
    (
        "agents.type_settings",
        "valid_liveness_limits",
        {"suspect_after_seconds": "9", "lost_after_seconds": "9"},
    ),
    ("tasks.queue", "no_self_parent", {"parent_task_id": NEW}),
    ("tasks.queue", "valid_attempt", {"attempt": "-1"}),
    ("tasks.queue", "valid_blocked_by", {"blocked_by": "-1"}),
    ("tasks.queue", "valid_max_execution_time", {"max_execution_time": "'0'"}),
    ("tasks.queue", "valid_retry_count", {"retry_count": "4"}),
    ("tasks.queue", "valid_retry_count", {"retry_count": "-1"}),
    ("tasks.queue", "valid_status_timing", {"status": "'running'"}),
    ("tasks.queue", "valid_status_timing", {"status": "'completed'"}),
    ("tasks.queue", "valid_status_timing", {"completed_at": "now()"}),
    ("tasks.queue", "valid_task_type", {"task_type": "''"}),
    ("tasks.queue", "valid_timing", {"expires_at": PAST}),
    ("tasks.queue", "valid_timing", {"started_at": PAST}),
    ("tasks.queue", "valid_timing", {"status": "'failed'", "completed_at": PAST}),
    ("tasks.dependencies", "no_self_dependency", {"depends_on_task_id": T2}),
    ("tasks.dependencies", "valid_dependency_type", {"dependency_type": "'wish'"}),
    ("tasks.dependencies", "only_data_is_named", {"input_name": "'x'"}),
    ("tasks.dependencies", "only_data_is_named", {"dependency_type": "'data'", "input_name": "''"}),
    ("tasks.retention", "valid_task_type", {"task_type": "''"}),
    ("tasks.retention", "valid_keep_days", {"keep_failed_days": "-1"}),
    ("tasks.recurring_slots", "valid_name", {"name": "''"}),
    ("tasks.resource_holders", "valid_resource", {"resource": "''"}),
    ("tasks.resource_waiters", "valid_resource", {"resource": "''"}),
    ("tasks.executions", "completion_consistency", {"status": "'completed'", "completed_at": "now()"}),
    ("tasks.executions", "completion_consistency", {"status": "'completed'", "result": "'1'"}),
    ("tasks.executions", "completion_consistency", {"status": "'failed'", "completed_at": "now()"}),
    ("tasks.executions", "completion_consistency", {"status": "'cancelled'"}),
    ("tasks.executions", "completion_consistency", {"completed_at": "now()"}),
    ("tasks.executions", "started_at_matches_id", {"started_at": "now() - interval '301 s'"}),
    ("tasks.executions", "started_at_matches_id", {"started_at": "now() + interval '310 s'"}),
    ("tasks.executions", "valid_execution_attempt", {"execution_attempt": "0"}),
    ("tasks.executions", "valid_timing", {"status": "'cancelled'", "completed_at": PAST}),
    ("tasks.pauses", "valid_task_type", {"task_type": "''"}),
    ("tasks.pauses", "valid_pause", {"paused_until": PAST}),
    ("tasks.queue_pauses", "valid_queue", {"queue": "''"}),
    ("tasks.queue_pauses", "valid_pause", {"paused_until": PAST}),
    ("tasks.task_pauses", "valid_pause", {"paused_until": PAST}),
    ("tasks.limits", "valid_scope", {"scope": "'world'"}),
    ("tasks.limits", "valid_name", {"name": "''"}),
    ("tasks.limits", "valid_name", {"scope": "'all'"}),
    ("tasks.limits", "valid_max_running", {"max_running": "0"}),
    ("tasks.limits", "valid_max_running", {"max_running_per_key": "0"}),
    ("tasks.limits", "valid_rate", {"rate_limit": "1"}),
    ("tasks.limits", "valid_rate", {"rate_limit": "0", "rate_seconds": "1"}),
    ("tasks.limits", "valid_weight", {"weight": "0"}),
    ("tasks.limits", "keys_are_of_types", {"scope": "'queue'", "fair_keys": "true"}),
    ("tasks.limits", "keys_have_no_rate", {"scope": "'key'", "rate_limit": "1", "rate_seconds": "1"}),
    ("tasks.starts", "valid_number", {"number": "0"}),
    ("tasks.types", "valid_queue", {"queue": "''"}),
    ("tasks.types", "valid_task_type", {"task_type": "''"}),
    ("tasks.unique_keys", "valid_unique_key", {"unique_key": "''"}),
    ("messages.channels", "valid_channel_name", {"channel_name": "''"}),
    ("messages.channels", "valid_channel_type", {"channel_type": "'tube'"}),
    ("messages.subscriptions", "valid_message_pattern", {"message_pattern": "''"}),
    ("messages.subscriptions", "valid_message_pattern", {"message_pattern": "'a.>.b'"}),
    ("messages.subscriptions", "valid_message_pattern", {"message_pattern": "'a..b'"}),
    ("messages.subscriptions", "valid_message_pattern", {"message_pattern": "'a*'"}),
    ("messages.log", "routing_consistency", {"to_agent_id": "NULL"}),
    ("messages.log", "routing_consistency", {"broadcast_to_type": "'worker'"}),
    ("messages.log", "sent_at_matches_id", {"sent_at": "now() - interval '301 s'"}),
    ("messages.log", "sent_at_matches_id", {"sent_at": "now() + interval '310 s'"}),
    ("messages.log", "valid_delivery_attempts", {"delivery_attempts": "-1"}),
    ("messages.log", "valid_expiry", {"expires_at": PAST}),
    ("messages.log", "valid_priority", {"priority": "11"}),
    ("messages.log", "valid_priority", {"priority": "-1"}),
    ("messages.deliveries", "delivered_has_a_time", {"state": "'delivered'"}),
    ("messages.deliveries", "failed_has_an_error", {"state": "'failed'", "next_at": "NULL"}),
    ("messages.deliveries", "failed_has_an_error", {"state": "'failed'", "next_at": "NULL", "error": "''"}),
    ("messages.deliveries", "has_recipient", {"agent_id": "NULL"}),
    (
        "messages.deliveries",
        "has_recipient",
        {"agent_id": "NULL", "queue_id": C1, "state": "'delivered'", "delivered_at": "now()"},
    ),
    ("messages.deliveries", "open_has_a_time", {"next_at": "NULL"}),
    ("messages.deliveries", "open_has_a_time", {"state": "'expired'"}),
    ("messages.deliveries", "processed_has_a_time", {"processed_at": "now()"}),
    ("messages.deliveries", "valid_attempts", {"attempts": "-1"}),
    ("messages.deliveries", "valid_priority", {"priority": "11"}),
    ("messages.deliveries", "valid_priority", {"priority": "-1"}),
    ("messages.deliveries", "valid_state", {"state": "'lost'", "next_at": "NULL"}),
    ("sessions.active", "future_expiry", {"expires_at": "now()"}),
    ("sessions.active", "valid_session_type", {"session_type": "'chat'"}),
    ("sessions.active", "valid_token_digest", {"session_id": NEW}),
    ("sessions.active", "valid_token_digest", {"token_digest": "substring(sha256('token') FROM 1 FOR 31)"}),
    ("knowledge.facts", "closed_has_end", {"closed_at": "now()"}),
    ("knowledge.facts", "not_its_own_successor", {"superseded_by": NEW}),
    ("knowledge.facts", "valid_confidence", {"confidence_score": "1.001"}),
    ("knowledge.facts", "valid_confidence", {"confidence_score": "-0.001"}),
    ("knowledge.facts", "valid_entity_id", {"entity_id": "''"}),
    ("knowledge.facts", "valid_entity_type", {"entity_type": "''"}),
    ("knowledge.facts", "valid_object_size", {"object_value": "to_jsonb(repeat('x', 262143))"}),
    ("knowledge.facts", "valid_object_type", {"object_type": "''"}),
    ("knowledge.facts", "valid_predicate", {"predicate": "''"}),
    ("knowledge.facts", "valid_validity_period", {"valid_until": PAST}),
    ("knowledge.models", "valid_dimensions", {"dimensions": "4001"}),
    ("knowledge.models", "valid_dimensions", {"dimensions": "0"}),
    ("knowledge.models", "default_is_not_retired", {"is_default": "true", "state": "'retired'"}),
    ("knowledge.models", "valid_model_name", {"model_name": "''"}),
    ("knowledge.models", "valid_model_version", {"model_version": "''"}),
    ("knowledge.models", "valid_state", {"state": "'new'"}),
    (
        "knowledge.embeddings",
        "valid_dimensions",
        {"embedding_vector": "array_fill(1::real, ARRAY[383])::halfvec"},
    ),
    ("knowledge.embeddings", "valid_embedding_version", {"embedding_version": "''"}),
    ("knowledge.embeddings", "valid_text_content", {"text_content": "''"}),
    ("monitoring.snapshots", "valid_snapshot_kind", {"kind": "'other'"}),
    ("monitoring.alarm_rules", "named_rule", {"name": "''"}),
    ("monitoring.alarm_rules", "named_rule", {"metric": "''"}),
    ("monitoring.alarm_rules", "valid_labels", {"labels": "'[]'"}),
    ("monitoring.alarm_rules", "valid_direction", {"direction": "'beside'"}),
    ("monitoring.alarm_rules", "some_threshold", {"warning": "NULL"}),
    ("monitoring.alarm_rules", "warning_comes_first", {"warning": "2", "critical": "1"}),
    (
        "monitoring.alarm_rules",
        "warning_comes_first",
        {"direction": "'below'", "warning": "1", "critical": "2"},
    ),
    ("monitoring.alarm_rules", "valid_clear_margin", {"clear_margin": "-1"}),
    ("monitoring.alarm_rules", "valid_hold_seconds", {"hold_seconds": "86401"}),
    ("monitoring.alarm_rules", "valid_hold_seconds", {"hold_seconds": "-1"}),
    ("monitoring.alarm_rules", "valid_alarm_state", {"state": "'odd'"}),
    ("monitoring.alarm_rules", "whole_pending_state", {"pending_state": "'ok'"}),
    ("monitoring.alarm_rules", "whole_pending_state", {"pending_state": "'odd'", "pending_since": "now()"}),
    ("monitoring.alarm_events", "another_alarm_state", {"to_state": "'ok'"}),
    ("monitoring.alarm_channels", "named_channel", {"target": "''"}),
    ("monitoring.alarm_channels", "valid_channel_kind", {"kind": "'pigeon'"}),
    ("monitoring.alarm_channels", "valid_minimum_state", {"minimum_state": "'ok'"}),
    ("monitoring.notifications", "valid_notification_status", {"status": "'odd'"}),
    ("monitoring.notifications", "sent_notification", {"status": "'sent'"}),
    ("monitoring.notifications", "valid_notification_attempts", {"attempts": "-1"}),
    ("operators.audit", "named_actor", {"actor": "''"}),
    ("operators.audit", "valid_via", {"via": "'window'"}),
    ("operators.audit", "valid_action", {"action": "'cancel'"}),
    ("operators.audit", "valid_object_count", {"object_count": "-1"}),
    ("operators.audit", "whole_seal", {"seal_number": "1"}),
    ("operators.audit", "whole_seal", {"seal_number": "1", "seal": "'short'"}),
    ("operators.bulk_jobs", "valid_bulk_status", {"status": "'odd'"}),
    ("operators.bulk_jobs", "valid_bulk_via", {"via": "'window'"}),
    ("operators.bulk_jobs", "valid_bulk_counts", {"done": "-1"}),
    ("operators.bulk_jobs", "finished_bulk_job", {"status": "'finished'"}),
    ("partitions.policies", "valid_keep_days", {"keep_days": "0"}),
    ("partitions.policies", "valid_make_ahead_days", {"make_ahead_days": "0"}),
    ("partitions.policies", "valid_make_ahead_days", {"make_ahead_days": "401"}),
    ("partitions.policies", "valid_on_expiry", {"on_expiry": "'burn'"}),
    ("partitions.policies", "valid_table_name", {"table_name": "'log'"}),
    ("partitions.policies", "valid_partition_interval", {"partition_interval": "'year'"}),
    (
        "partitions.policies",
        "not_too_many_ahead",
        {"partition_interval": "'hour'", "make_ahead_days": "41"},
    ),
    ("partitions.runs", "valid_status", {"status": "'asleep'"}),
    ("partitions.runs", "valid_origin", {"origin": "'psql'"}),
    ("partitions.runs", "finished_has_a_time", {"status": "'done'"}),
    ("partitions.runs", "finished_has_a_time", {"finished_at": "now()"}),
    ("partitions.runs", "failed_has_an_error", {"status": "'failed'", "finished_at": "now()"}),
    ("partitions.runs", "valid_lock_wait_ms", {"lock_wait_ms": "-1"}),
    ("partitions.archives", "valid_range", {"upper_time": PAST}),
    ("partitions.archives", "valid_state", MEASURED | {"state": "'lost'"}),
    ("partitions.archives", "verified_is_measured", {"state": "'verified'"}),
    ("partitions.archives", "dropped_was_verified", {"dropped_at": "now()"}),
    ("partitions.archives", "damaged_has_an_error", MEASURED | {"state": "'damaged'"}),
    ("partitions.marks", "valid_kind", {"kind": "'lost'"}),
    ("partitions.marks", "comes_from_an_archive", {"kind": "'loading'"}),
    ("bridge.outbox", "payload_unless_deleted", {"payload": "NULL"}),
    ("bridge.outbox", "payload_unless_deleted", {"op": "'D'"}),
    ("bridge.outbox", "valid_op", {"op": "'X'"}),
    ("bridge.quarantine", "valid_attempts", {"attempts": "0"}),
    ("bridge.hydration", "valid_counts", {"stored": "1"}),
    ("bridge.hydration", "valid_phase", {"phase": "'hot'"}),
    ("bridge.hold", "one_hold", {"hold_id": "2"}),
    ("bridge.hold", "says_why", {"reason": "''"}),
    ("bridge.conflict", "newer_revision", {"kv_revision": "1"}),
    ("bridge.conflict", "valid_strategy", {"strategy": "'coin'"}),
    ("bridge.conflict", "valid_winner", {"winner": "'nobody'"}),
    ("bridge.conflict_rules", "valid_bucket", {"bucket": "'TASK_STATE'"}),
    ("bridge.conflict_rules", "valid_strategy", {"strategy": "'fenced'"}),
    ("bridge.dead_letters", "valid_attempts", {"attempts": "0"}),
    ("bridge.dead_letters", "valid_stream_position", {"stream_sequence": "-1"}),
    ("bridge.sources", "valid_position", {"kv_epoch": "-1"}),
    ("bridge.tombstones", "valid_position", {"kv_revision": "-1"}),
    ("recovery.backups", "complete_is_measured", STORED | {"size_bytes": "NULL"}),
    ("recovery.backups", "complete_is_measured", STORED | {"manifest_sha256": "NULL"}),
    ("recovery.backups", "incremental_has_parent", {"kind": "'incremental'"}),
    ("recovery.backups", "incremental_has_parent", {"kind": "'base'", "parent_id": NEW}),
    ("recovery.backups", "incremental_has_parent", {"kind": "'cross_system'"}),
    ("recovery.backups", "physical_has_a_range", STORED | {"kind": "'base'"}),
    ("recovery.backups", "physical_has_a_range", STORED | RANGE | {"end_lsn": "1"}),
    ("recovery.backups", "completion", STORED | {"status": "'running'"}),
    ("recovery.backups", "completion", STORED | {"completed_at": "NULL"}),
    ("recovery.backups", "completion", STORED | {"completed_at": PAST}),
    ("recovery.backups", "trouble_has_an_error", {"status": "'failed'"}),
    ("recovery.backups", "trouble_has_an_error", STORED | {"status": "'damaged'", "error": "''"}),
    ("recovery.backups", "valid_kind", {"kind": "'copy'"}),
    ("recovery.backups", "valid_location", {"location": "''"}),
    ("recovery.backups", "valid_manifest_sha256", STORED | {"manifest_sha256": "'0'"}),
    ("recovery.backups", "valid_sizes", {"database_bytes": "-1"}),
    ("recovery.backups", "valid_sizes", STORED | {"size_bytes": "-1"}),
    ("recovery.backups", "valid_status", STORED | {"status": "'green'"}),
    ("recovery.backups", "verified_after_completion", {"verified_at": "now()"}),
    ("recovery.backups", "verified_after_completion", STORED | {"verified_at": PAST}),
    ("recovery.backups", "verified_has_a_time", STORED | {"status": "'verified'"}),
    ("recovery.backups", "stored_when_complete", {"stored_at": "now()"}),
    ("recovery.uploads", "valid_key", {"key": "''"}),
    ("recovery.uploads", "valid_key", {"key": "'wal/../x'"}),
    ("recovery.uploads", "valid_key", {"key": "'/x'"}),
    ("recovery.uploads", "valid_store", {"store": "'bucket'"}),
    ("recovery.uploads", "valid_sizes", {"size_bytes": "-1"}),
    ("recovery.uploads", "valid_sizes", SENT | {"stored_bytes": "-1"}),
    ("recovery.uploads", "valid_sha256", SENT | {"sha256": "'0'"}),
    ("recovery.uploads", "valid_attempts", {"attempts": "-1"}),
    ("recovery.uploads", "uploaded_is_measured", {"uploaded_at": "now()"}),
    ("recovery.uploads", "uploaded_is_measured", SENT | {"stored_bytes": "NULL"}),
    ("recovery.wal_segments", "valid_timeline", {"timeline": "0"}),
    ("recovery.wal_segments", "valid_number", {"number": "-1"}),
    ("recovery.wal_segments", "valid_sizes", {"segment_bytes": "0"}),
    ("recovery.wal_segments", "missing_is_a_problem", {"stored_bytes": "0"}),
    ("recovery.wal_segments", "valid_commits", {"first_commit_at": "now()"}),
    ("recovery.timelines", "parent_is_older", {"parent": "2"}),
    ("recovery.timelines", "valid_switch_lsn", {"switch_lsn": "-1"}),
    ("recovery.archive_state", "valid_timeline", {"timeline": "0"}),
    ("recovery.archive_state", "valid_segment_bytes", {"segment_bytes": "0"}),
    ("recovery.archive_state", "valid_archived_lsn", {"archived_lsn": "-1"}),
    ("recovery.restore_points", "valid_timeline", {"timeline": "0"}),
    ("recovery.restore_points", "valid_lsn", {"lsn": "-1"}),
    ("recovery.test_results", "completion", {"test_completed_at": "now()"}),
    ("recovery.test_results", "completion", DONE | {"test_completed_at": "NULL"}),
    ("recovery.test_results", "completion", DONE | {"test_completed_at": PAST}),
    ("recovery.test_results", "passed_means_verified", DONE | {"data_verification_passed": "false"}),
    ("recovery.test_results", "valid_test_status", DONE | {"test_status": "'green'"}),
    ("recovery.test_results", "valid_test_type", {"test_type": "'prayer'"}),
]

# what is refused by something else than a CHECK: statement, SQLSTATE, constraint (None: the error names none)
LONG_TOKEN = "repeat('t', 40)"
REFUSED = {
    "a task id under two types": (
        f"INSERT INTO tasks.queue (task_id, task_type) VALUES ({T1}, 'other')",
        "23505",
        "identity_pkey",
    ),
    "a change of type": (f"UPDATE tasks.queue SET task_type = 'other' WHERE task_id = {T1}", "23000", None),
    "an unknown parent": (
        "INSERT INTO tasks.queue (task_type, parent_task_id) VALUES ('x', gen_random_uuid())",
        "23503",
        "queue_parent_task_id_fkey",
    ),
    "a cycle of tasks": (
        f"INSERT INTO tasks.dependencies (task_id, depends_on_task_id) VALUES ({T1}, {T2}), ({T2}, {T1})",
        "23514",
        "no_dependency_cycle",
    ),
    "the same dependency twice": (
        f"INSERT INTO tasks.dependencies (task_id, depends_on_task_id) VALUES ({T1}, {T2}), ({T1}, {T2})",
        "23505",
        None,
    ),
    "a status that the state machine has not": (
        f"UPDATE tasks.queue SET status = 'completed', completed_at = now() WHERE task_id = {T1}",
        "23514",
        "allowed_status_transition",
    ),
    "an agent back from termination": (
        f"UPDATE agents.registry SET status = 'terminated' WHERE agent_id = {A1};"
        f"UPDATE agents.registry SET status = 'active' WHERE agent_id = {A1}",
        "23514",
        "allowed_status_transition",
    ),
    "an agent with history": (
        f"INSERT INTO tasks.executions (task_id, agent_id) VALUES ({T1}, {A2});"
        f"DELETE FROM agents.registry WHERE agent_id = {A2}",
        "23503",
        "executions_agent_id_fkey",
    ),
    "the same subscription twice": (
        f"INSERT INTO messages.subscriptions (agent_id, channel_id) VALUES ({A1}, {C1}), ({A1}, {C1})",
        "23505",
        "one_subscription",
    ),
    "a token with a session": (
        f"SELECT sessions.open_session({LONG_TOKEN}, '1 hour'), sessions.open_session({LONG_TOKEN}, '2 hours')",
        "23505",
        None,
    ),
    "a short token": (
        "SELECT sessions.open_session(repeat('t', 31), '1 hour')",
        "23514",
        "valid_session_token",
    ),
    "no token": ("SELECT sessions.open_session(NULL, '1 hour')", "23514", "valid_session_token"),
    "part of a day as a partition": (
        "SELECT partitions.create_time_partition('messages.log', CURRENT_DATE + 20, '6 hours')",
        "22023",
        None,
    ),
    "a partition over others": (
        "SELECT partitions.create_time_partition('messages.log', CURRENT_DATE, '30 days')",
        "42P07",
        None,
    ),
    "a time partition of another table": (
        "SELECT partitions.create_time_partition('agents.registry', CURRENT_DATE)",
        "42809",
        None,
    ),
    "a message of a day without a partition": (
        "INSERT INTO messages.log (message_id, message_type, sent_at) VALUES"
        " (partitions.uuid7_at('2001-01-01'), 'heartbeat', '2001-01-01')",
        "23514",
        None,
    ),
    "a shell command as backup location": (
        "SELECT recovery.prepare_pitr(now(), '/b''; rm -rf /')",
        "22023",
        None,
    ),
    "a recovery target in the future": (
        "SELECT recovery.prepare_pitr(now() + interval '1 hour', '/b')",
        "22023",
        None,
    ),
}


@pytest.fixture(autouse=True)
def world(db):
    execute(SETUP)


def execute(statement):
    with connection.cursor() as cursor:
        cursor.execute(statement)


def insert(table, row):
    execute(f"INSERT INTO {table} ({', '.join(row)}) VALUES ({', '.join(row.values())})")


def refusal_of(run, *arguments):
    with pytest.raises(DatabaseError) as caught, transaction.atomic():
        run(*arguments)
    return caught.value.__cause__.diag


@pytest.mark.parametrize("table", VALID)
def test_a_right_row_goes_in(table):
    insert(table, VALID[table])


@pytest.mark.parametrize(
    ("table", "constraint", "change"), BREAKS, ids=[f"{t}.{c}-{'-'.join(x)}" for t, c, x in BREAKS]
)
def test_a_wrong_row_is_refused(table, constraint, change):
    refused = refusal_of(insert, table, VALID[table] | change)
    assert (refused.sqlstate, refused.constraint_name) == ("23514", constraint), refused.message_primary


@pytest.mark.parametrize("name", REFUSED)
def test_is_refused(name):
    statement, sqlstate, constraint = REFUSED[name]
    refused = refusal_of(execute, statement)
    assert refused.sqlstate == sqlstate, refused.message_primary
    assert constraint in (None, refused.constraint_name)


@pytest.mark.parametrize("kind", ["agent", "task", "message"])
def test_the_nil_uuid_is_no_id(kind):
    refused = refusal_of(execute, f"SELECT {NIL}::{kind}_id_type")
    assert refused.constraint_name == f"{kind}_id_is_set"
    execute(f"SELECT {NEW}::{kind}_id_type, NULL::{kind}_id_type")


def test_every_check_has_a_row_that_trips_it():
    """Also those that only leaves have (knowledge.embeddings: the dimensions of its model)."""
    found = rows(
        """
        SELECT DISTINCT n.nspname || '.' || r.relname, k.conname
        FROM pg_constraint k
        JOIN pg_class c ON c.oid = k.conrelid
        JOIN pg_class r ON r.oid = COALESCE(pg_partition_root(c.oid)::oid, c.oid)
        JOIN pg_namespace n ON n.oid = r.relnamespace
        WHERE k.contype = 'c' AND k.coninhcount = 0 AND n.nspname = ANY (%s) AND n.nspname <> 'public'
        """,
        [our_schemas()],
    )
    assert sorted(found) == sorted({(table, constraint) for table, constraint, _ in BREAKS}), (
        "add a row to BREAKS for each new CHECK"
    )


def test_no_check_is_without_a_name():
    """PostgreSQL would make one up from the columns, and the error would tell nobody which rule it was."""
    unnamed = [name for _, name in {(t, c) for t, c, _ in BREAKS} if name.endswith("_check")]
    assert not unnamed
