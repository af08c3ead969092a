"""Each check of doctor is broken once, and doctor says so."""

import json
from datetime import UTC, datetime, timedelta
from io import StringIO
from pathlib import Path
from types import SimpleNamespace

import pytest
from django.core.management import call_command
from django.db import connection
from django.utils import timezone
from django_celery_beat.models import PeriodicTask

import bridge.connection
import monitoring.checks
import partitions.catalog
import pg.budget
import recovery.checks
from cockpit import checks, vitals
from cockpit.management.commands import doctor
from cockpit.supervision.control import ProcessState
from monitoring import registry

TESTS = Path(__file__).parents[1]
NOBODY = "127.0.0.1:1"
pytestmark = [pytest.mark.django_db, pytest.mark.servers]


def sql(*statements):
    """Break something in the database; the test's transaction is rolled back."""

    def break_it(monkeypatch, settings):
        with connection.cursor() as cursor:
            cursor.execute("SET LOCAL session_replication_role = replica")  # no trigger, no foreign key
            for statement in statements:
                cursor.execute(statement)
            cursor.execute("SET LOCAL session_replication_role = origin")

    return break_it


def setting(**values):
    def break_it(monkeypatch, settings):
        for name, value in values.items():
            setattr(settings, name, value)

    return break_it


def attribute(place, name, value):
    return lambda monkeypatch, settings: monkeypatch.setattr(place, name, value)


def nothing(monkeypatch, settings):
    """As it is in a test: no process of ours runs."""


ECHO = (
    "INSERT INTO tasks.types (task_type, partition_name) VALUES ('echo', 'queue_echo') ON CONFLICT DO NOTHING"
)
OLD_TASK = (
    "INSERT INTO tasks.queue (task_type, status, created_at)"
    " VALUES ('echo', 'queued', now() - interval '1 hour')"
)
OUTBOX = "'AGENT_STATE', 'x', 'D', clock_timestamp() - interval '1 hour'"
FIRST_LEAF = (
    "inhrelid = (SELECT min(inhrelid::oid) FROM pg_inherits"
    " WHERE inhparent = 'agents.lifecycle_events'::regclass)"
)
FULL_POOL = {"pool_name": "(server)", "health_status": "critical", "recommendations": ["190 of 200 in use"]}
DELIVERY = "INSERT INTO messages.deliveries (message_id, agent_id, state, next_at, error)"
NO_SPACE = SimpleNamespace(free=0)
ALWAYS_OK = {"monitoring.statements"}  # says what there is, and finds no fault

WRONG_IN_TESTS = {"cockpit.postgres_settings", "bridge.relay", "bridge.topology"}  # no fsync, no bridge
# check, what doctor says of it, how it is broken
BREAKS = [
    ("cockpit.postgres", "PostgreSQL 14", attribute(checks, "server_major", lambda connection: 14)),
    ("cockpit.extensions", "pg_stat_statements is not created", sql("DROP EXTENSION pg_stat_statements CASCADE")),
    ("cockpit.migrations", "1 not applied: demo.", None),  # see below
    ("cockpit.postgres_settings", "fsync is off: a power cut destroys the database", nothing),
    ("cockpit.clock", "are 3600", attribute(checks, "time", lambda: timezone.now().timestamp() + 3600.5)),
    ("cockpit.nats", f"NATS at nats://{NOBODY}", setting(NATS_URL=f"nats://{NOBODY}")),
    ("cockpit.nats", "max_payload is 1024 kB",
     attribute(checks, "ask_nats", lambda: vitals.NatsVitals("2.11.0", True, 1 << 20))),
    ("cockpit.nats", "JetStream off",
     attribute(checks, "ask_nats", lambda: vitals.NatsVitals("2.11.0", False, 4 << 20))),
    ("cockpit.nats", "sync_interval is 120 s", attribute(checks, "sync_interval", lambda: "120 s")),
    ("cockpit.broker", f"broker at redis://{NOBODY}", setting(CELERY_BROKER_URL=f"redis://{NOBODY}/0")),
    ("cockpit.worker", "no Celery worker answers", attribute(checks, "ask_worker", list)),
    ("cockpit.beat", "beat last sent something 2020", lambda monkeypatch, settings: PeriodicTask.objects.update(
        last_run_at=timezone.now().replace(year=2020))),
    ("cockpit.processes", "bridge is FATAL", lambda monkeypatch, settings: fake_processes(monkeypatch)),
    ("cockpit.disk", " MB free at", attribute(checks, "MINIMUM_FREE_BYTES", 1 << 60)),
    ("cockpit.settings", "DEBUG is on", setting(DEBUG=True, WEB_BIND="192.0.2.1")),
    ("cockpit.roles", "differences: alter role app_", sql("CREATE ROLE app_primary SUPERUSER")),
    ("monitoring.connections", "190 of 200 in use", attribute(monitoring.checks, "pools", lambda: [FULL_POOL])),
    ("monitoring.pools", "bridge 9999", attribute(pg.budget, "BRIDGE_SESSIONS", 9_999)),
    ("agents.lost", "1 agents are lost", sql(
        "INSERT INTO agents.registry (agent_type, agent_name, status, liveness)"
        " VALUES ('reader', 'gone', 'active', 'lost')")),
    ("partitions.cover", "no partition for today", sql(
        f"DROP TABLE agents.lifecycle_events_{timezone.now():%Y_%m_%d}")),
    ("partitions.detach", "interrupted detach: ", sql(
        f"UPDATE pg_inherits SET inhdetachpending = true WHERE {FIRST_LEAF}")),
    ("partitions.shape", "agents.lifecycle_events: a gap from", sql(
        f"DROP TABLE agents.lifecycle_events_{timezone.now() + timedelta(days=2):%Y_%m_%d}")),
    ("partitions.runs", "the last run failed: no room", sql(
        "INSERT INTO partitions.runs (origin, status, finished_at, error)"
        " VALUES ('beat', 'failed', now(), 'no room')")),
    ("partitions.archives", "damaged archives: x.y_1", sql(
        "INSERT INTO partitions.archives (table_name, partition_name, partition_oid, lower_time, upper_time, location,"
        " columns, table_bytes, state, error, row_count, checksum, sha256, size_bytes, verified_at) VALUES"
        " ('x.y', 'x.y_1', 1, '2001-01-01', '2001-01-02', 'x', '{}', 1, 'damaged', 'e', 1, '1', '0', 1, now())")),
    ("partitions.clocks", "differ by 3600 s", attribute(
        partitions.catalog.timezone, "now", lambda: datetime.now(UTC) + timedelta(hours=1))),
    ("tasks.workers", "0 worker processes", sql(ECHO, OLD_TASK)),
    ("tasks.oldest_ready", "waits for 3600 s", sql(ECHO, OLD_TASK)),
    ("tasks.leases", "1 leases expired", sql(
        "INSERT INTO tasks.queue (task_type, status, lease_until, worker, started_at)"
        " VALUES ('echo', 'running', now() - interval '1 hour', gen_random_uuid(), now())")),
    ("tasks.default_leaf", "1 tasks of type nobody", sql("INSERT INTO tasks.queue (task_type) VALUES ('nobody')")),
    ("tasks.leaf_triggers", "lacks the trigger bridge_insert", sql(
        "DROP TRIGGER bridge_insert ON tasks.queue_default")),
    ("bridge.topology", "NATS", lambda monkeypatch, settings: lose_nats(settings)),
    ("bridge.outbox", "1 rows wait", sql(
        f"INSERT INTO bridge.outbox (target, key, op, created_at) VALUES ({OUTBOX})")),
    ("bridge.relay", "no relay runs", nothing),
    ("bridge.dead_letters", "1 messages that could not be applied", sql(
        "INSERT INTO bridge.dead_letters (consumer, stream, stream_epoch, stream_sequence, subject, payload, stored_at,"
        " error) VALUES ('flusher', 's', 1, 1, 'a.b', '', now(), 'bad')")),
    ("bridge.flusher", "after 6000 ms", sql(
        "INSERT INTO bridge.processes (process_id, host, pid, figures)"
        " VALUES (gen_random_uuid(), 'h', 1, '{\"flusher AGENT_STATE\": {\"lag_ms\": {\"p95\": 6000}}}')")),
    ("bridge.hold", "the bridge stands still since", sql(
        "INSERT INTO bridge.hold (reason) VALUES ('PostgreSQL was restored to name x')")),
    ("bridge.quarantine", "1 rows that NATS refuses", sql(
        "INSERT INTO bridge.quarantine (outbox_id, target, key, op, created_at, error, attempts)"
        f" VALUES (1, {OUTBOX}, 'too large', 1)")),
    ("messaging.dead", "1 deliveries are dead", sql(
        f"{DELIVERY} VALUES (partitions.uuid7(), gen_random_uuid(), 'failed', NULL, 'broken')")),
    ("messaging.overdue", "1 deliveries have been due", sql(
        f"{DELIVERY} VALUES (partitions.uuid7(), gen_random_uuid(), 'pending', now() - interval '2 hours', NULL)")),
    ("recovery.backup", "none verified yet", sql(
        "UPDATE django_migrations SET applied = now() - interval '30 days'")),
    ("recovery.wal", "000000010000000000000007: missing", sql(
        "INSERT INTO recovery.archive_state"
        " (system_identifier, timeline, segment_bytes, checked_at, archived_lsn, problems)"
        " VALUES ('7', 1, 16777216, now(), 0, ARRAY['000000010000000000000007: missing'])")),
    ("recovery.drill", "no restore was drilled yet", sql(
        "INSERT INTO recovery.backups (kind, status, location, database_name, server_version, tool_version,"
        " database_bytes, started_at, completed_at, size_bytes, manifest_sha256, system_identifier, timeline,"
        " start_lsn, end_lsn)"
        " VALUES ('base', 'complete', 'base/x', 'd', '18.6', '18.6', 1, now() - interval '3 days',"
        " now() - interval '3 days', 1, repeat('0', 64), '7', 1, 1, 2)")),
    ("recovery.cross", "the newest cross-system backup is 72 h old", sql(
        "INSERT INTO recovery.backups (kind, status, location, database_name, server_version, tool_version,"
        " database_bytes, started_at, completed_at, size_bytes, manifest_sha256, system_identifier, timeline,"
        " start_lsn, end_lsn, parent_id)"
        " VALUES ('cross_system', 'complete', 'cross/x', 'd', '18.6', '18.6', 1, now() - interval '3 days',"
        " now() - interval '3 days', 1, repeat('0', 64), '7', 1, 1, 2, gen_random_uuid())")),
    ("recovery.tools", "", setting(PG_BIN_DIR="/nowhere")),
    ("recovery.space", "0 MB free", attribute(recovery.checks.shutil, "disk_usage", lambda path: NO_SPACE)),
    ("knowledge.extension", "vector 0.1", sql("UPDATE pg_extension SET extversion = '0.1' WHERE extname = 'vector'")),
    ("knowledge.indexes", "is invalid", sql(
        "UPDATE pg_index SET indisvalid = false WHERE indexrelid ="
        " (SELECT min(indexrelid::oid) FROM pg_index WHERE indrelid = 'knowledge.facts'::regclass)")),
    ("knowledge.models", "", sql("UPDATE knowledge.models SET is_default = false")),
]  # fmt: skip


def fake_processes(monkeypatch):
    state = ProcessState("bridge", "FATAL", None, None)
    monkeypatch.setattr(checks.claim, "is_taken", lambda home: True)
    monkeypatch.setattr(checks.Control, "states", lambda control: [state])


def lose_nats(settings):
    bridge.connection.close()
    settings.NATS_URL = f"nats://{NOBODY}"


@pytest.fixture
def healthy(monkeypatch):
    """What no test runs: a worker that answers, and beat."""
    monkeypatch.setattr(checks, "ask_worker", lambda: ["celery@here"])
    PeriodicTask.objects.update(last_run_at=timezone.now())
    yield
    bridge.connection.close()


def run_doctor():
    out = StringIO()
    code = 0
    try:
        call_command("doctor", "--json", stdout=out)
    except SystemExit as end:
        code = end.code
    return code, json.loads(out.getvalue())


def wrong_of(answer, name):
    return [row for row in answer["items"] if row["check"] == name and not row["ok"]]


@pytest.mark.parametrize(("name", "said", "break_it"), BREAKS, ids=[f"{row[0]}-{row[1]}" for row in BREAKS])
def test_broken_check_is_named_with_a_hint(name, said, break_it, healthy, monkeypatch, settings):
    if break_it is None:
        said, break_it = forget_last_migration()
    check = next(check for check in registry.checks() if check.name == name)
    if name not in WRONG_IN_TESTS:
        assert all(found.ok for found in registry.run_check(check)), "it must be in order before"
    break_it(monkeypatch, settings)
    monkeypatch.setattr(
        doctor, "checks", lambda: [check]
    )  # the others take a while, and have tests of their own
    code, answer = run_doctor()
    assert (code, answer["ok"]) == (1, False)
    wrong = wrong_of(answer, name)
    assert wrong, answer["items"]
    assert said in wrong[0]["detail"]
    assert wrong[0]["hint"]


def forget_last_migration():
    with connection.cursor() as cursor:
        cursor.execute("SELECT app, name FROM django_migrations ORDER BY id DESC LIMIT 1")
        app, name = cursor.fetchone()
    return f"{app}.{name}", sql(f"DELETE FROM django_migrations WHERE app = '{app}' AND name = '{name}'")


def test_every_check_is_broken_here_or_in_the_tests_of_its_room():
    here = {name for name, _, _ in BREAKS} | ALWAYS_OK
    missing = [
        check.name for check in registry.checks() if check.name not in here and not has_own_test(check)
    ]
    assert not missing, f"{missing}: add to BREAKS how each is broken"


def has_own_test(check):
    """Its function is called by a test of the room that the check is named after."""
    paths = (TESTS / check.name.partition(".")[0]).glob("test_*.py")
    return any(check.look.__name__ in path.read_text() for path in paths)


def test_people_read_what_is_wrong_and_what_to_do(healthy):
    out = StringIO()
    with pytest.raises(SystemExit):
        call_command("doctor", stdout=out)
    assert "WRONG bridge.relay: no relay runs" in out.getvalue()
    assert "HINT: start manage.py bridge run" in out.getvalue()
    assert "ok    cockpit.postgres: PostgreSQL 18" in out.getvalue()
