"""Entries stay as they are, and a change from outside shows."""

import json
from datetime import timedelta
from io import StringIO

import pytest
from django.core.management import CommandError, call_command
from django.db import IntegrityError, connection, transaction
from django.utils import timezone

from operators.audit import OBJECTS_KEPT, Actor, record, require_reason, seal_entries, verify_entries
from operators.models import AuditEntry
from pg.errors import Refused

pytestmark = pytest.mark.django_db
ANN = Actor("ann", "admin", "192.0.2.7")


def sql(statement, *params):
    with connection.cursor() as cursor:
        cursor.execute(statement, params)


@pytest.fixture
def sealed():
    ids = [record(ANN, "tasks.cancel", [n], reason="wrong input") for n in range(4)]
    assert seal_entries() == 4
    return ids


def test_entry_says_who_what_why():
    entry = AuditEntry.objects.get(
        pk=record(ANN, "tasks.cancel", ["a", 7], reason="no use", details={"n": 1})
    )
    assert (entry.actor, entry.via, entry.address, entry.action) == (
        "ann",
        "admin",
        "192.0.2.7",
        "tasks.cancel",
    )
    assert (entry.objects_touched, entry.object_count, entry.reason) == (["a", "7"], 2, "no use")
    assert entry.details == {"n": 1}
    assert abs(entry.recorded_at - timezone.now()) < timedelta(minutes=1)


def test_only_the_first_objects_are_kept_and_all_are_counted():
    entry = AuditEntry.objects.get(pk=record(ANN, "tasks.cancel", range(OBJECTS_KEPT + 1)))
    assert len(entry.objects_touched) == OBJECTS_KEPT
    assert entry.object_count == OBJECTS_KEPT + 1


def test_what_is_rolled_back_was_not_done():
    with transaction.atomic():
        record(ANN, "tasks.cancel")
        transaction.set_rollback(True)
    assert not AuditEntry.objects.exists()


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE operators.audit SET reason = 'another'",
        "DELETE FROM operators.audit",
        "TRUNCATE operators.audit",
        "UPDATE operators.audit SET seal = sha256('x'), seal_number = 9",  # sealed already
    ],
)
def test_sealed_entries_cannot_be_touched(sealed, statement):
    with pytest.raises(IntegrityError, match="append-only"), transaction.atomic():
        sql(statement)


def test_a_seal_may_not_bring_another_change_with_it():
    record(ANN, "tasks.cancel")
    with pytest.raises(IntegrityError, match="append-only"), transaction.atomic():
        sql("UPDATE operators.audit SET seal = sha256('x'), seal_number = 1, actor = 'bob'")


@pytest.mark.parametrize(
    ("constraint", "actor", "action"),
    [
        ("named_actor", Actor("", "admin"), "tasks.cancel"),
        ("valid_via", Actor("ann", "window"), "tasks.cancel"),
        ("valid_action", ANN, "cancel"),
    ],
)
def test_entry_that_says_nothing_is_refused(constraint, actor, action):
    with pytest.raises(IntegrityError, match=constraint), transaction.atomic():
        record(actor, action)


def test_whole_chain_verifies_in_any_time_zone(sealed):
    sql("SET LOCAL TimeZone = 'Asia/Kathmandu'")
    found = verify_entries()
    assert (found.breaks, found.sealed, found.unsealed, found.is_whole) == ([], 4, 0, True)
    assert found.head == bytes(AuditEntry.objects.get(seal_number=4).seal).hex()


def test_sealing_goes_on_where_it_ended(sealed):
    assert seal_entries() == 0
    record(ANN, "tasks.retry")
    assert seal_entries() == 1
    assert verify_entries().is_whole


def as_intruder(statement, *params):
    """Do what only somebody with rights over the table can do."""
    sql("SET LOCAL session_replication_role = replica")
    sql(statement, *params)
    sql("SET LOCAL session_replication_role = origin")


def test_a_changed_entry_is_found(sealed):
    as_intruder("UPDATE operators.audit SET reason = 'another' WHERE entry_id = %s", sealed[1])
    assert [(one.entry_id, one.problem) for one in verify_entries().breaks] == [
        (sealed[1], "changed after it was sealed")
    ]


def test_a_missing_entry_is_found(sealed):
    as_intruder("DELETE FROM operators.audit WHERE entry_id = ANY(%s)", sealed[1:3])
    assert verify_entries().breaks[0].problem == "2 entries are missing"


def test_a_changed_entry_with_a_fresh_seal_breaks_the_next_one(sealed):
    as_intruder("UPDATE operators.audit SET reason = 'another' WHERE entry_id = %s", sealed[1])
    as_intruder(
        "UPDATE operators.audit a SET seal = operators.seal_of("
        "(SELECT seal FROM operators.audit WHERE seal_number = 1), a) WHERE entry_id = %s",
        sealed[1],
    )
    assert [one.entry_id for one in verify_entries().breaks] == [sealed[2]]


def test_entries_that_nobody_seals_are_a_finding():
    entry = record(ANN, "tasks.cancel")
    as_intruder(
        "UPDATE operators.audit SET recorded_at = now() - interval '2 hours' WHERE entry_id = %s", entry
    )
    found = verify_entries()
    assert (found.overdue, found.is_whole) == (1, False)


def test_reason_must_say_something():
    assert require_reason("  wrong input ") == "wrong input"
    assert require_reason("x" * 1_000)
    for text in ("", "  \n", "x" * 1_001):
        with pytest.raises(Refused):
            require_reason(text)


# -- the command --------------------------------------------------------------------------------------------
def run(*arguments):
    out = StringIO()
    call_command("audit", *arguments, "--json", stdout=out)
    return json.loads(out.getvalue())


def test_command_lists_by_actor_action_object_and_time(sealed):
    other = record(Actor("bob", "command"), "tasks.retry", ["x"])
    listed = run("list")["items"]
    assert [item["entry_id"] for item in listed] == [other, *reversed(sealed)]
    for arguments in (["--actor", "bob"], ["--action", "tasks.retry"], ["--object", "x"]):
        assert [item["entry_id"] for item in run("list", *arguments)["items"]] == [other]
    assert run("list", "--since", "2999-01-01T00:00:00Z")["items"] == []
    with pytest.raises(CommandError, match="not a time with its zone"):
        run("list", "--since", "yesterday")


def test_command_verifies(sealed):
    body = run("verify")
    assert (body["ok"], body["counts"]) == (True, {"sealed": 4, "unsealed": 0, "broken": 0})
    as_intruder("UPDATE operators.audit SET actor = 'bob' WHERE entry_id = %s", sealed[0])
    with pytest.raises(SystemExit):
        run("verify")


def test_command_exports_lines_and_overwrites_nothing(sealed, tmp_path):
    path = tmp_path / "audit.jsonl"
    assert run("export", "--to", str(path))["counts"] == {"entries": 4}
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line["entry_id"] for line in lines] == sealed
    assert all(len(line["seal"]) == 64 for line in lines)
    with pytest.raises(CommandError, match="exists"):
        run("export", "--to", str(path))
