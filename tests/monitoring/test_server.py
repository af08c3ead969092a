"""What the server does now, and ending what hangs: on sessions that really hang."""

import json
import threading
from io import StringIO

import psycopg
import pytest
from django.core.management import call_command
from django.db import connection

from monitoring.checks import (
    look_at_locks,
    look_at_slots,
    look_at_transactions,
    look_at_wraparound,
    read_slots,
    server_row,
)
from monitoring.models import Activity, Index, LockWait, Statement, Table
from monitoring.sessions import cancel_statements, terminate_sessions
from operators.audit import Actor
from operators.models import AuditEntry
from pg.errors import Refused

ANN = Actor("ann", "admin")
pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def connect():
    """Open sessions on the test's database, named so that the test finds them."""
    opened = []

    def open_one(name):
        parameters = connection.get_connection_params() | {"cursor_factory": psycopg.Cursor}
        opened.append(psycopg.connect(**parameters | {"application_name": name}))
        return opened[-1]

    yield open_one
    for one in opened:
        one.close()


def wait_for(found):
    """Look until `found` returns something; the event is in the server, which tells nobody."""
    for _ in range(10_000):
        if seen := found():
            return seen
    raise AssertionError("it never came")


@pytest.fixture
def blocked(connect):
    """`holder` holds a table, `second` waits for it, `third` for both."""
    sessions = {name: connect(name) for name in ("holder", "second", "third")}
    errors, threads = {}, []

    def lock(name):
        try:
            sessions[name].execute("LOCK TABLE agents.registry")
        except psycopg.Error as error:
            errors[name] = type(error).__name__
        finally:
            if name != "holder":
                sessions[name].close()  # lets the next one have it

    lock("holder")
    for name in ("second", "third"):
        threads.append(threading.Thread(target=lock, args=(name,)))
        threads[-1].start()
        wait_for(lambda name=name: LockWait.objects.filter(application_name=name).exists())
    yield {**sessions, "errors": errors, "threads": threads}
    sessions["holder"].close()
    for thread in threads:
        thread.join()


def pid_of(session):
    return session.info.backend_pid


def test_lock_waits_are_a_tree_with_the_holder_at_its_head(blocked):
    lines = list(LockWait.objects.order_by("position"))
    assert (lines[0].application_name, lines[0].depth, lines[0].blocks, lines[0].wants) == (
        "holder",
        0,
        2,
        "",
    )
    under = {(line.application_name, line.depth) for line in lines[1:]}
    assert {("second", 1), ("third", 1), ("third", 2)} == under
    second = next(line for line in lines if line.application_name == "second")
    assert (second.wants, second.object) == ("AccessExclusiveLock", "agents.registry")
    assert second.waiting_seconds is not None
    assert lines[0].path == str(pid_of(blocked["holder"]))


def test_a_waiting_statement_is_cancelled(blocked):
    pid = pid_of(blocked["second"])
    signalled = cancel_statements([pid], by=ANN, reason="hangs")
    blocked["threads"][0].join()
    assert (signalled, blocked["errors"]) == ([pid], {"second": "QueryCanceled"})
    entry = AuditEntry.objects.get()
    assert (entry.action, entry.objects_touched) == ("monitoring.cancel_statement", [str(signalled[0])])
    assert entry.details[str(signalled[0])]["application"] == "second"


def test_the_holder_is_ended_and_the_next_one_has_the_lock(blocked):
    assert terminate_sessions([pid_of(blocked["holder"])], by=ANN, reason="hangs") == [
        pid_of(blocked["holder"])
    ]
    blocked["threads"][0].join()
    assert blocked["errors"] == {}
    with pytest.raises(psycopg.OperationalError):
        blocked["holder"].execute("SELECT 1")


def test_neither_our_own_session_nor_the_server_s_processes_are_ended(connect):
    with connection.cursor() as cursor:
        own = connection.connection.info.backend_pid
        cursor.execute("SELECT pid FROM pg_stat_activity WHERE backend_type = 'checkpointer'")
        checkpointer = cursor.fetchone()[0]
    assert terminate_sessions([own, checkpointer, 0], by=ANN, reason="oops") == []
    with pytest.raises(Refused, match="reason"):
        terminate_sessions([pid_of(connect("any"))], by=ANN, reason="")


def test_sessions_tell_what_they_do(connect):
    idle = connect("idle one")
    idle.execute("SELECT 1")
    seen = Activity.objects.get(application_name="idle one")
    assert (seen.pid, seen.state, seen.statement) == (pid_of(idle), "idle in transaction", "SELECT 1")
    assert seen.transaction_seconds >= seen.state_seconds >= 0


def test_long_transactions_and_lock_waits_are_findings(blocked, monkeypatch):
    assert [finding.ok for finding in look_at_transactions()] == [True]
    assert [finding.ok for finding in look_at_locks()] == [True]
    monkeypatch.setattr("monitoring.checks.LONGEST_TRANSACTION_SECONDS", -1)
    monkeypatch.setattr("monitoring.checks.LONGEST_LOCK_SECONDS", -1)
    details = [finding.detail for finding in look_at_transactions()]
    assert any("holder" in detail for detail in details)
    assert any(
        "second" in finding.detail and "agents.registry" in finding.detail for finding in look_at_locks()
    )


@pytest.mark.parametrize(("limit", "is_fine"), [(10**9, True), (1, False)])
def test_wraparound_is_a_finding_long_before(monkeypatch, limit, is_fine):
    monkeypatch.setattr("monitoring.checks.WRAPAROUND_XIDS", limit)
    (found,) = look_at_wraparound()
    assert (found.ok, "frozen" in found.detail) == (is_fine, True)


@pytest.fixture
def slot():
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_create_physical_replication_slot('left_behind', true)")
        yield "left_behind"
        cursor.execute("SELECT pg_drop_replication_slot('left_behind')")


def test_a_slot_that_keeps_too_much_is_a_finding(slot, monkeypatch):
    assert [found.ok for found in look_at_slots() if slot in found.detail] == [True]
    monkeypatch.setattr("monitoring.checks.MOST_RETAINED_BYTES", 0)
    (found,) = [found for found in look_at_slots() if slot in found.detail]
    assert not found.ok
    assert "nobody reads it" in found.detail
    assert "pg_drop_replication_slot" in found.hint
    assert [sample for sample in read_slots() if sample[0] == {"slot": slot}]


def test_a_table_is_one_row_with_its_partitions_added_up():
    with connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO agents.registry (agent_type, agent_name) SELECT 'w', 'a' || n FROM generate_series(1, 500) n"
        )
        cursor.execute(
            "INSERT INTO agents.state (agent_id, state_key, state_value) SELECT agent_id, 'k', '1' FROM agents.registry"
        )
        cursor.execute("ANALYZE agents.state")
        cursor.execute("SELECT sum(pg_total_relation_size(relid)) FROM pg_partition_tree('agents.state')")
        total = cursor.fetchone()[0]
    table = Table.objects.get(table_name="agents.state")
    assert (table.partitions, table.row_estimate, table.total_bytes) == (8, 500, total)
    assert table.xid_age > 0
    assert Table.objects.get(table_name="agents.registry").partitions == 0
    assert not Table.objects.filter(table_name__contains="state_p").exists()


def test_bloat_is_what_deleted_rows_left():
    with connection.cursor() as cursor:
        cursor.execute(
            "CREATE TABLE public.bloated AS SELECT n, repeat('x', 200) AS t FROM generate_series(1, 20000) n"
        )
        cursor.execute("ANALYZE public.bloated")
        full = Table.objects.get(table_name="public.bloated")
        cursor.execute("DELETE FROM public.bloated WHERE n % 4 > 0")
        cursor.execute("VACUUM ANALYZE public.bloated")
        holes = Table.objects.get(table_name="public.bloated")
    assert full.bloat_bytes < full.total_bytes * 0.1
    assert holes.total_bytes * 0.6 < holes.bloat_bytes < holes.total_bytes * 0.8


def test_figures_of_the_server():
    row = server_row()
    assert 0 < row["cache_hit_ratio"] <= 1
    assert row["xid_age"] > 0
    assert row["wal_bytes"] > 0
    assert row["checkpoints_timed"] >= 0
    assert row["is_replica"] is False


def test_indexes_are_rows_with_a_recommendation():
    one = Index.objects.get(index_name="registry_pkey")
    assert (one.schema_name, one.table_name, one.recommendation) == (
        "agents",
        "registry",
        "Keep - enforces uniqueness",
    )
    assert Index.objects.filter(index_name="state_pkey").count() == 1


def test_statements_are_those_of_this_database():
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_stat_statements_reset()")
        for _ in range(3):
            cursor.execute("SELECT count(*) AS told_apart FROM agents.registry")
    found = Statement.objects.get(statement__contains="told_apart")
    assert (found.calls, found.rows_per_call) == (3, 1.0)


def run(*arguments):
    out = StringIO()
    call_command("indexes", *arguments, "--json", stdout=out)
    return json.loads(out.getvalue())


def test_command_tells_the_doubtful_ones():
    with connection.cursor() as cursor:
        cursor.execute("CREATE INDEX twin ON agents.registry (agent_id)")
    body = run("usage", "--doubtful", "--schema", "agents")
    assert {item["index"]: item["recommendation"] for item in body["items"]}["twin"].startswith("Redundant")
    assert "registry_pkey" not in {item["index"] for item in body["items"]}
    assert run("usage")["counts"]["indexes"] > body["counts"]["indexes"]


def test_command_suggests_with_evidence():
    with connection.cursor() as cursor:
        cursor.execute("CREATE TABLE public.wanted AS SELECT n, n AS colour FROM generate_series(1, 20000) n")
        cursor.execute("ANALYZE public.wanted")
        for n in range(5):
            cursor.execute("SELECT n FROM public.wanted WHERE colour = %s", [n])
        cursor.execute("SELECT pg_stat_force_next_flush()")
    items = run("suggest", "--min-rows", "1000")["items"]
    assert [item["sql"] for item in items if "wanted" in item["sql"]] == [
        "CREATE INDEX CONCURRENTLY ON public.wanted (colour);"
    ]


PAGES = ("activity", "lockwait", "table", "index", "statement", "replica", "replicationslot")


@pytest.mark.parametrize("page", PAGES)
def test_every_page_opens(admin_client, page):
    assert admin_client.get(f"/admin/monitoring/{page}/").status_code == 200


@pytest.mark.parametrize("page", ["table", "index"])
def test_a_page_that_a_lock_would_hold_up_leads_to_who_holds_it(admin_client, blocked, page, monkeypatch):
    monkeypatch.setattr("monitoring.server_admin.LOCK_TIMEOUT_MS", 10)
    shown = admin_client.get(f"/admin/monitoring/{page}/", follow=True)
    assert shown.redirect_chain == [("/admin/monitoring/lockwait/", 302)]
    assert b"Somebody holds a lock" in shown.content
    assert b"holder" in shown.content


def test_a_session_is_ended_from_the_lock_page_after_a_reason(admin_client, blocked):
    pid = str(pid_of(blocked["holder"]))
    chosen = {"action": "terminate", "_selected_action": [pid]}
    page = admin_client.post("/admin/monitoring/lockwait/", chosen)
    assert b"Why?" in page.content
    assert pid.encode() in page.content
    page = admin_client.post(
        "/admin/monitoring/lockwait/", chosen | {"confirmed": "yes", "reason": "hangs"}, follow=True
    )
    assert b"1 sessions ended" in page.content
    blocked["threads"][0].join()
