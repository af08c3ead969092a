"""Many rows in batches: counted, resumed, stopped, and never done twice."""

import json
from io import StringIO

import pytest
from django.core.management import CommandError, call_command
from django.db import IntegrityError, OperationalError, connection, transaction

from operators import bulk
from operators.audit import Actor
from operators.bulk import Batch, BulkAction, cancel_bulk, count_bulk, request_bulk, run_next_batch
from operators.models import AuditEntry, BulkJob
from pg.errors import Refused

pytestmark = pytest.mark.django_db
ANN = Actor("ann", "admin")
NAME = "tests.double"


@pytest.fixture
def numbers(monkeypatch):
    """A table of ten numbers and an action that doubles them, three at a time."""
    monkeypatch.setattr(bulk, "BATCH_ROWS", 3)
    with connection.cursor() as cursor:
        cursor.execute("CREATE TEMPORARY TABLE numbers (id int PRIMARY KEY, value int) ON COMMIT DROP")
        cursor.execute("INSERT INTO numbers SELECT n, n FROM generate_series(1, 10) n")
    monkeypatch.setitem(bulk._actions, NAME, BulkAction(NAME, "Double", lambda _: 10, double))


def double(parameters, position, limit, by):
    with connection.cursor() as cursor:
        cursor.execute(
            "UPDATE numbers SET value = value * 2 WHERE id IN"
            " (SELECT id FROM numbers WHERE id > %s ORDER BY id LIMIT %s) RETURNING id",
            [position or 0, limit],
        )
        ids = [row[0] for row in cursor.fetchall()]
    if parameters.get("fail_at") in ids:
        raise parameters["error"] if "error" in parameters else ValueError("no")
    return Batch(len(ids), max(ids) if len(ids) == limit else None)


def values():
    with connection.cursor() as cursor:
        cursor.execute("SELECT array_agg(value ORDER BY id) FROM numbers")
        return cursor.fetchone()[0]


def test_every_row_is_done_once_and_the_job_says_so(numbers):
    job = request_bulk(NAME, {}, by=ANN, reason="for the test")
    assert count_bulk(NAME, {}) == job.expected == 10
    while run_next_batch():
        pass
    job.refresh_from_db()
    assert (job.status, job.done, job.failed) == ("finished", 10, 0)
    assert values() == [n * 2 for n in range(1, 11)]
    entry = AuditEntry.objects.get()
    assert (entry.action, entry.actor, entry.reason, entry.object_count) == (NAME, "ann", "for the test", 10)


def test_a_stopped_job_keeps_what_is_done(numbers):
    job = request_bulk(NAME, {}, by=ANN, reason="for the test")
    run_next_batch()
    cancel_bulk(job.pk, by=ANN, reason="enough")
    assert not run_next_batch()
    job.refresh_from_db()
    assert (job.status, job.done) == ("cancelled", 3)
    with pytest.raises(Refused):
        cancel_bulk(job.pk, by=ANN, reason="again")


def test_an_outage_leaves_the_batch_for_the_next_runner(numbers, monkeypatch):
    job = request_bulk(NAME, {}, by=ANN, reason="for the test")
    run_next_batch()

    def break_down(*_):
        double(*_)
        raise OperationalError("deadlock detected")

    with monkeypatch.context() as patch:
        patch.setitem(bulk._actions, NAME, BulkAction(NAME, "Double", lambda _: 10, break_down))
        with pytest.raises(OperationalError), transaction.atomic():
            run_next_batch()
    job.refresh_from_db()
    assert (job.status, job.done) == ("running", 3)
    while run_next_batch():
        pass
    assert values() == [n * 2 for n in range(1, 11)]


def test_a_mistake_ends_the_job_and_undoes_its_batch(numbers):
    job = request_bulk(NAME, {"fail_at": 5}, by=ANN, reason="for the test")
    while run_next_batch():
        pass
    job.refresh_from_db()
    assert (job.status, job.done, job.error) == ("failed", 3, "ValueError: no")
    assert values() == [2, 4, 6, 4, 5, 6, 7, 8, 9, 10]


def test_unknown_action_and_missing_reason_are_refused(numbers):
    with pytest.raises(Refused, match="no such bulk action"):
        request_bulk("tests.nothing", {}, by=ANN, reason="x")
    with pytest.raises(Refused, match="reason"):
        request_bulk(NAME, {}, by=ANN, reason=" ")
    assert not BulkJob.objects.exists()


@pytest.mark.parametrize(
    ("constraint", "wrong"),
    [
        ("valid_bulk_status", {"status": "odd"}),
        ("valid_bulk_via", {"via": "window"}),
        ("valid_bulk_counts", {"done": -1}),
        ("finished_bulk_job", {"status": "finished"}),
    ],
)
def test_impossible_jobs_are_refused(constraint, wrong):
    row = {"action": NAME, "requested_by": "ann", "via": "admin", **wrong}
    with pytest.raises(IntegrityError, match=constraint), transaction.atomic():
        BulkJob.objects.create(**row)


def test_command_lists_and_stops_jobs(numbers):
    job = request_bulk(NAME, {}, by=ANN, reason="for the test")
    out = StringIO()
    call_command("audit", "jobs", "--json", stdout=out)
    assert [item["job_id"] for item in json.loads(out.getvalue())["items"]] == [job.pk]
    call_command("audit", "stop_job", str(job.pk), "--reason", "enough", stdout=StringIO())
    job.refresh_from_db()
    assert job.status == "cancelled"
    with pytest.raises(CommandError, match="cancelled"):
        call_command("audit", "stop_job", str(job.pk), "--reason", "enough", stdout=StringIO())
