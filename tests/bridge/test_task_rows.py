"""A change of a task is one row of the outbox and two messages: its value, and its event."""

import json
from unittest.mock import patch

import pytest
from django.db import OperationalError

from bridge import relay
from bridge.models import OutboxRow, QuarantinedRow
from bridge.outbox import redrive
from bridge.publisher import UNKNOWN
from bridge.relay import FINAL_TRIES, Memory, relay_batch
from recovery.replay import renumber
from tasks.models import Task
from tests.bridge.conftest import empty_outbox, history, rows

pytestmark = pytest.mark.usefixtures("committed", "jetstream", "relay_alone")
# what a relay of the release before does with rows whose value it has published
FORGET_AS_BEFORE = "DELETE FROM bridge.outbox WHERE outbox_id = ANY(%s)"
READ_AS_BEFORE = "SELECT outbox_id, target, key, op::text FROM bridge.outbox ORDER BY outbox_id"


@pytest.fixture
def relay_alone():
    with patch("bridge.fastpath.push", return_value=0):
        yield


@pytest.fixture
def task(agent):
    empty_outbox()
    return Task.objects.create(task_type="echo")


def drain(session, memory=None):
    """Relay until nothing moves; return the batches."""
    memory, batches = memory or Memory(), []
    while len(batches) < 20 and (not batches or batches[-1].read):
        batches.append(relay_batch(session, memory))
    return batches


def values():
    return [json.loads(message.data)["status"] for message in history("KV_TASK_STATE")]


def events():
    return [json.loads(message.data)["status"] for message in history("TASK_EXECUTION")]


def move(task, status):
    moment = (
        ", started_at = clock_timestamp()" if status == "running" else ", completed_at = clock_timestamp()"
    )
    rows(f"UPDATE tasks.queue SET status = %s{moment} WHERE task_id = %s", status, task.pk)


def test_one_row_is_a_value_and_an_event(task, session):
    (row,) = OutboxRow.objects.all()
    assert (row.target, row.key, row.op) == ("TASK_STATE", str(task.pk), "U")
    assert row.event == f"tasks.created.{task.pk}"
    batch = relay_batch(session, Memory())
    assert (batch.read, batch.published, batch.done_ids) == (2, 2, [row.pk])
    assert not OutboxRow.objects.exists()
    (kept,), (told,) = history("KV_TASK_STATE"), history("TASK_EXECUTION", row.event)
    assert (kept.sync_id, told.sync_id, kept.data) == (row.pk, row.pk, told.data)


def test_of_many_changes_the_newest_value_is_sent_and_every_event(task, session):
    move(task, "running")
    move(task, "completed")
    batch = relay_batch(session, Memory())
    assert (batch.replaced, batch.published, len(batch.done_ids)) == (2, 4, 3)
    assert (values(), events()) == (["completed"], ["queued", "running", "completed"])


@pytest.mark.parametrize("same_memory", [False, True])
def test_a_crash_before_the_row_is_forgotten_repeats_neither(task, session, same_memory):
    memory = Memory()
    with (
        patch.object(relay, "delete_rows", side_effect=OperationalError("killed")),
        pytest.raises(OperationalError),
    ):
        relay_batch(session, memory)
    drain(session, memory if same_memory else Memory())
    assert not OutboxRow.objects.exists()
    assert (values(), events()) == (["queued"], ["queued"])


def test_a_row_stays_until_both_are_known_to_be_stored(task, session):
    memory, real = Memory(), relay.publish

    def unanswered(memory, rows):
        return {part: UNKNOWN if part[1] else outcome for part, outcome in real(memory, rows).items()}

    with patch.object(relay, "publish", unanswered):
        batch = relay_batch(session, memory)
    assert (batch.published, batch.doubtful, batch.done_ids, batch.is_stuck) == (1, 1, [], True)
    assert OutboxRow.objects.count() == 1
    drain(session, memory)
    assert (values(), events()) == (["queued"], ["queued"])
    assert not OutboxRow.objects.exists()


# -- a relay of the release before ---------------------------------------------------------------------------
def test_a_relay_that_knows_no_events_leaves_them_as_rows_of_their_own(task, session):
    (row,) = rows(READ_AS_BEFORE)
    rows(FORGET_AS_BEFORE, [row[0]])
    assert rows(READ_AS_BEFORE) == [(row[0], "TASK_EXECUTION", f"tasks.created.{task.pk}", "E")]
    drain(session)
    assert events() == ["queued"]
    assert not OutboxRow.objects.exists()


def test_an_event_that_was_sent_is_not_sent_again_after_such_a_relay(task, session):
    ids = [row[0] for row in rows(READ_AS_BEFORE)]
    with (
        patch.object(relay, "delete_rows", side_effect=OperationalError("killed")),
        pytest.raises(OperationalError),
    ):
        relay_batch(session, Memory())
    rows(FORGET_AS_BEFORE, ids)
    drain(session)
    assert (values(), events()) == (["queued"], ["queued"])


def test_what_gets_a_new_id_after_a_restore_is_the_value_alone(task, session):
    (before,) = rows(READ_AS_BEFORE)
    renumber(session)
    (event_id, *_), (value_id, *_) = rows(READ_AS_BEFORE)
    assert (event_id, value_id > event_id) == (before[0], True)
    drain(session)
    assert (values(), events()) == (["queued"], ["queued"])


# -- what NATS refuses for good ------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("small", "stored_values", "stored_events"),
    [
        (("TASK_STATE",), 0, 1),
        (("stream:TASK_EXECUTION",), 1, 0),
        (("TASK_STATE", "stream:TASK_EXECUTION"), 0, 0),
    ],
)
def test_only_what_is_refused_is_set_apart_and_may_be_sent_again(
    task, session, settings, small, stored_values, stored_events
):
    limits = {"TASK_STATE": "max_value_bytes", "stream:TASK_EXECUTION": "max_message_bytes"}
    settings.BRIDGE_OVERRIDES = {name: {limits[name]: 10} for name in small}
    memory = Memory()
    batches = drain(session, memory)
    assert sum(batch.quarantined for batch in batches) == len(small)
    assert len(batches) <= FINAL_TRIES + 2
    assert (len(values()), len(events())) == (stored_values, stored_events)
    assert not OutboxRow.objects.exists()
    apart = list(QuarantinedRow.objects.order_by("pk"))
    assert len(apart) == len(small)
    settings.BRIDGE_OVERRIDES = {}
    assert redrive(session, [row.pk for row in apart]) == len(apart)
    drain(session, memory)
    assert (values(), events()) == (["queued"], ["queued"])
    assert not QuarantinedRow.objects.exists()


def test_a_value_is_sent_again_after_the_event_of_its_id(task, session):
    (row,) = rows(READ_AS_BEFORE)
    rows(FORGET_AS_BEFORE, [row[0]])
    rows(
        "INSERT INTO bridge.quarantine (outbox_id, target, key, op, payload, created_at, error, attempts)"
        " VALUES (%s, 'TASK_STATE', %s, 'U', '{\"status\": \"queued\"}', now(), 'too large', 5)", row[0], row[2],
    )  # fmt: skip
    assert redrive(session, [row[0]]) == 0
    drain(session)
    assert redrive(session, [row[0]]) == 1
    drain(session)
    assert (values(), events()) == (["queued"], ["queued"])
