"""The guide's recovery functions: what they find, and what they must not miss."""

from datetime import UTC, datetime, timedelta

import pytest
from django.conf import settings
from django.db import connection

from recovery.models import TestResult

A1 = "'00000000-0000-7000-8000-0000000000a1'"
A2 = "'00000000-0000-7000-8000-0000000000a2'"
GHOST = "'00000000-0000-7000-8000-0000000000ee'"


@pytest.fixture
def database(db):
    """psycopg's connection in the test's transaction."""
    connection.ensure_connection()
    return connection.connection


def consistency(database):
    cursor = database.execute("SELECT * FROM recovery.verify_data_consistency()")
    return [row for row in cursor.fetchall() if row[2] != "PASS"]


def break_rules(database, statement):
    """Run a statement without triggers and foreign keys, as a half-restored database would have it."""
    database.execute("SET LOCAL session_replication_role = replica")
    database.execute(statement)
    database.execute("SET LOCAL session_replication_role = origin")


# -- consistency --------------------------------------------------------------------------------------------
def test_a_fresh_database_is_consistent_and_every_table_is_listed_once(database):
    rows = database.execute("SELECT * FROM recovery.verify_data_consistency()").fetchall()
    names = [row[0] for row in rows]
    assert len(names) == len(set(names))
    assert {"agents.registry", "tasks.queue", "messages.log", "sessions.active"} <= set(names)
    assert ("knowledge.facts" in names) == settings.KNOWLEDGE
    assert not [name for name in names if name[-1].isdigit()], "partitions are counted through their table"
    assert {(row[2], tuple(row[3])) for row in rows} == {("PASS", ())}


def test_rows_are_counted_over_all_partitions(database):
    database.execute(
        f"INSERT INTO agents.registry (agent_id, agent_type, agent_name) VALUES ({A1}, 'w', 'a')"
    )
    database.execute(
        "INSERT INTO agents.state (agent_id, state_key, state_value)"
        f" SELECT {A1}, n::text, '1' FROM generate_series(1, 9) n"
    )
    rows = database.execute(
        "SELECT table_name, record_count FROM recovery.verify_data_consistency()"
    ).fetchall()
    assert dict(rows)["agents.state"] == 9


@pytest.mark.parametrize(
    ("statement", "table", "issue"),
    [
        (
            f"INSERT INTO agents.state (agent_id, state_key, state_value) VALUES ({GHOST}, 'k', '1')",
            "agents.state",
            "1 rows break state_agent_id_fkey -> agents.registry",
        ),
        (
            f"INSERT INTO tasks.queue (task_id, task_type) VALUES ({GHOST}, 'x')",
            "tasks.queue",
            "1 tasks have no identity",
        ),
        (
            f"INSERT INTO tasks.identity VALUES ({GHOST}, 'x')",
            "tasks.identity",
            "1 identities have no task",
        ),
        (
            f"INSERT INTO tasks.executions (task_id, agent_id) VALUES ({GHOST}, {GHOST})",
            "tasks.executions",
            "1 rows break executions_agent_id_fkey -> agents.registry",
        ),
        (
            f"INSERT INTO agents.registry (agent_id, agent_type, agent_name, parent_agent_id)"
            f" VALUES ({A1}, 'w', 'a', {A2}), ({A2}, 'w', 'b', {A1})",
            "agents.registry",
            "2 agents are their own ancestor",
        ),
        pytest.param(
            "INSERT INTO knowledge.facts"
            " (entity_type, entity_id, predicate, object_value, object_type, source_agent_id)"
            f" VALUES ('e', '1', 'is', '1', 'number', {GHOST})",
            "knowledge.facts",
            "1 rows break facts_source_agent_id_fkey -> agents.registry",
            marks=pytest.mark.skipif(not settings.KNOWLEDGE, reason="this server has no pgvector"),
        ),
    ],
)
def test_a_broken_rule_is_named(database, statement, table, issue):
    break_rules(database, statement)
    found = [row for row in consistency(database) if row[2] == "ISSUES_FOUND"]
    assert [(row[0], row[3]) for row in found] == [(table, [issue])]


def test_a_delivery_of_no_message_is_named(database):
    break_rules(
        database,
        "INSERT INTO agents.registry (agent_type, agent_name) VALUES ('w', 'a');"
        "INSERT INTO messages.deliveries (message_id, agent_id, next_at)"
        " SELECT partitions.uuid7(), agent_id, now() FROM agents.registry",
    )
    [found] = consistency(database)
    assert found[0] == "messages.deliveries"
    assert found[3] == ["1 deliveries without a message although its partition is there"]


def test_a_row_that_breaks_a_check_is_counted(database):
    database.execute("INSERT INTO agents.registry (agent_type, agent_name) VALUES ('w', 'a')")
    database.execute(
        "ALTER TABLE agents.registry ADD CONSTRAINT long_name CHECK (length(agent_name) > 3) NOT VALID"
    )
    assert consistency(database)[0][3] == ["1 rows break check long_name"]


def test_an_index_that_was_left_invalid_is_named(database):
    database.execute(
        "UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'agents.idx_agents_registry_type_status'::regclass"
    )
    assert consistency(database)[0][3] == ["index agents.idx_agents_registry_type_status is not valid"]


def test_history_without_its_task_is_told_but_no_issue(database):
    database.execute(
        f"INSERT INTO agents.registry (agent_id, agent_type, agent_name) VALUES ({A1}, 'w', 'a')"
    )
    database.execute(f"INSERT INTO tasks.executions (task_id, agent_id) VALUES (partitions.uuid7(), {A1})")
    database.execute(
        "INSERT INTO tasks.executions (task_id, agent_id)"
        f" VALUES (partitions.uuid7_at(now() - interval '31 days'), {A1})"
    )
    [told] = consistency(database)
    assert (told[0], told[1], told[2]) == ("tasks.executions", 1, "INFO")
    assert "whose task is gone" in told[3][0]


# -- drills -------------------------------------------------------------------------------------------------
def test_a_result_is_recorded_with_its_times(database):
    began = datetime.now(UTC) - timedelta(minutes=5)
    database.execute(
        "SELECT recovery.record_test_result('pitr', now(), p_test_status => 'failed', p_started_at => %s,"
        " p_errors => ARRAY['no WAL'])",
        [began],
    )
    row = database.execute(
        "SELECT test_started_at, test_completed_at, error_messages FROM recovery.test_results"
    )
    started, completed, errors = row.fetchone()
    assert started == began
    assert completed - started >= timedelta(minutes=5)
    assert errors == ["no WAL"]


def test_a_running_drill_has_no_end_yet(database):
    database.execute("SELECT recovery.record_test_result('full_restore', now(), NULL, 'running')")
    assert database.execute("SELECT test_completed_at FROM recovery.test_results").fetchone() == (None,)


@pytest.mark.django_db
def test_drills_are_shown_and_cannot_be_changed(admin_client):
    now = datetime.now(UTC)
    drill = TestResult.objects.create(
        test_type="pitr",
        backup_timestamp=now,
        test_status="failed",
        test_started_at=now,
        test_completed_at=now,
        error_messages=["no WAL"],
    )
    base = "/admin/recovery/testresult/"
    assert "Failed" in admin_client.get(base).content.decode()
    assert "no WAL" in admin_client.get(f"{base}{drill.pk}/change/").content.decode()
    assert admin_client.get(f"{base}add/").status_code == 403


# -- point in time ------------------------------------------------------------------------------------------
def test_the_recovery_settings_stop_and_pause_at_the_target(database):
    target = datetime.now(UTC) - timedelta(hours=1)
    [text] = database.execute("SELECT recovery.prepare_pitr(%s, '/srv/my backups')", [target]).fetchone()
    settings = dict(line.split(" = ", 1) for line in text.splitlines() if " = " in line)
    program = 'python3 -IS "/srv/my backups/bin/wal_archive.py"'
    assert settings["restore_command"] == f'\'{program} get "%f" "%p" "/srv/my backups"\''
    assert settings["recovery_target_action"].startswith("'pause'")
    assert settings["archive_mode"].startswith("off")
    assert str(target.year) in settings["recovery_target_time"]


@pytest.mark.parametrize("place", ["/b'; touch /tmp/x", '/b"', "/b$(x)", "/b\n", "", None])
def test_a_place_that_a_shell_could_misread_is_refused(database, place):
    with pytest.raises(Exception, match="backup location"):
        database.execute("SELECT recovery.prepare_pitr(now(), %s)", [place])
