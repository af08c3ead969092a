import math
import threading
from datetime import timedelta
from uuid import uuid4

import pytest
from django.db import connection, transaction
from django.utils import timezone

from agents.checkpoints import create_checkpoint, find_checkpoint
from agents.errors import StaleEpoch, UnknownAgent, UnknownCheckpoint
from agents.models import Agent, AgentState, Checkpoint, StateHistory, TypeSettings
from agents.registry import register_agent
from agents.rollback import find_undo, plan_roll_back, roll_back
from agents.state import (
    MAX_VALUE_BYTES,
    ValueTooLarge,
    delete_state,
    purge_expired_state,
    read_state,
    write_state,
)
from operators.audit import Actor
from operators.models import AuditEntry
from pg.errors import Refused

pytestmark = pytest.mark.django_db


@pytest.fixture
def agent() -> Agent:
    return register_agent("reader", "reader-1")


def test_what_is_written_is_read_and_versions_grow(agent):
    assert [row.version for row in write_state(agent.pk, {"a": 1, "b": [None]})] == [1, 1]
    assert [row.version for row in write_state(agent.pk, {"a": 2})] == [2]
    assert read_state(agent.pk) == {"a": 2, "b": [None]}


def test_none_is_a_value_like_any_other(agent):
    assert [row.version for row in write_state(agent.pk, {"a": None, "b": 1})] == [1, 1]
    assert [row.version for row in write_state(agent.pk, {"a": None, "b": None})] == [1, 2]
    assert read_state(agent.pk) == {"a": None, "b": None}


def test_an_equal_value_changes_nothing(agent):
    write_state(agent.pk, {"a": {"x": 1}})
    before = AgentState.objects.get(agent=agent).updated_at
    assert write_state(agent.pk, {"a": {"x": 1}})[0].version == 1
    assert AgentState.objects.get(agent=agent).updated_at == before


def test_the_checksum_is_that_of_the_stored_text(agent):
    write_state(agent.pk, {"a": {"ä": 1}})
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT checksum = encode(sha256(convert_to(state_value::text, 'UTF8')), 'hex') FROM agents.state"
        )
        assert cursor.fetchone() == (True,)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [("", 1, "1 to 255"), ("k" * 256, 1, "1 to 255"), ("k", math.nan, "not JSON"), ("k", {1, 2}, "not JSON")],
)
def test_bad_input_is_refused_and_nothing_is_written(agent, key, value, message):
    with pytest.raises(Refused, match=message):
        write_state(agent.pk, {"good": 1, key: value})
    assert read_state(agent.pk) == {}


def test_both_sides_of_the_size_limit(agent):
    write_state(agent.pk, {"k": "x" * (MAX_VALUE_BYTES - 2)})
    with pytest.raises(ValueTooLarge, match=f"{MAX_VALUE_BYTES + 1} bytes"):
        write_state(agent.pk, {"k": "x" * (MAX_VALUE_BYTES - 1)})


@pytest.mark.django_db(transaction=True)
def test_state_of_an_unknown_agent_is_refused():
    with pytest.raises(UnknownAgent):
        write_state(uuid4(), {"k": 1})


def test_a_zombie_cannot_write_after_a_take_over(agent):
    write_state(agent.pk, {"k": "old"}, epoch=1)
    Agent.objects.filter(pk=agent.pk).update(epoch=2)
    with pytest.raises(StaleEpoch, match="at epoch 2, the caller at 1"):
        write_state(agent.pk, {"k": "zombie"}, epoch=1)
    assert read_state(agent.pk) == {"k": "old"}


def test_expired_keys_are_not_read_and_are_purged(agent):
    write_state(agent.pk, {"kept": 1})
    write_state(agent.pk, {"gone": 1}, expires_at=timezone.now() + timedelta(hours=1))
    AgentState.objects.filter(state_key="gone").update(
        created_at=timezone.now() - timedelta(hours=2), expires_at=timezone.now() - timedelta(hours=1)
    )
    assert read_state(agent.pk) == {"kept": 1}
    assert (purge_expired_state(), purge_expired_state()) == (1, 0)
    assert AgentState.objects.count() == 1


def test_delete_counts_what_was_there(agent):
    write_state(agent.pk, {"a": 1, "b": 2})
    assert delete_state(agent.pk, ["a", "nothing"]) == 1
    assert read_state(agent.pk) == {"b": 2}


def test_history_is_kept_only_where_the_type_asks_for_it(agent):
    write_state(agent.pk, {"k": 1})
    assert not StateHistory.objects.exists()
    TypeSettings.objects.create(agent_type="reader", keep_state_history=True)
    write_state(agent.pk, {"k": 2})
    delete_state(agent.pk, ["k"])
    rows = StateHistory.objects.order_by("history_id").values_list("state_value", "version")
    assert list(rows) == [(2, 2), (None, 3)]


def test_roll_back_restores_deletes_and_raises_the_epoch(agent):
    write_state(agent.pk, {"a": 1, "b": 2})
    saved = create_checkpoint(agent.pk, "before")
    write_state(agent.pk, {"a": 9, "b": False, "c": 3})
    plan = [(each.key, each.action, each.before, each.after) for each in plan_roll_back(agent.pk, saved)]
    assert plan == [("a", "set", 9, 1), ("b", "set", False, 2), ("c", "delete", 3, None)]
    assert back(agent, saved).changed == 3
    assert plan_roll_back(agent.pk, saved) == []
    assert read_state(agent.pk) == {"a": 1, "b": 2}
    agent.refresh_from_db()
    assert agent.epoch == 2
    with pytest.raises(StaleEpoch):
        write_state(agent.pk, {"a": 9}, epoch=1)


def back(agent, checkpoint):
    return roll_back(agent.pk, checkpoint, by=Actor("ann", "command"), reason="it went astray")


def test_a_roll_back_can_be_undone_and_that_again(agent):
    write_state(agent.pk, {"a": 1})
    saved = create_checkpoint(agent.pk)
    write_state(agent.pk, {"a": 2, "b": None})
    done = back(agent, saved)
    assert (find_undo(agent.pk), done.epoch) == (done.undo, 2)
    back(agent, find_undo(agent.pk))
    assert read_state(agent.pk) == {"a": 2, "b": None}
    back(agent, find_undo(agent.pk))
    assert read_state(agent.pk) == {"a": 1}
    entry = AuditEntry.objects.filter(action="agents.roll_back").order_by("pk")[0]
    assert (entry.reason, entry.details["undo"], entry.details["keys"]) == (
        "it went astray",
        str(done.undo.pk),
        2,
    )


def test_who_was_never_rolled_back_has_nothing_to_undo(agent):
    with pytest.raises(UnknownCheckpoint, match="never rolled back"):
        find_undo(agent.pk)


def test_a_time_to_live_is_put_back_and_what_is_over_by_then_is_not(agent):
    soon = timezone.now() + timedelta(hours=1)
    write_state(agent.pk, {"soon": 1, "over": 2}, expires_at=soon)
    saved = create_checkpoint(agent.pk)
    saved.state_snapshot["over"]["expires_at"] = (timezone.now() - timedelta(hours=1)).isoformat()
    write_state(agent.pk, {"soon": 5, "over": 6})
    back(agent, saved)
    assert read_state(agent.pk) == {"soon": 1}
    assert AgentState.objects.get(agent=agent, state_key="soon").expires_at == soon


def test_checkpoints_are_found_by_id_by_name_and_newest(agent):
    first, second = create_checkpoint(agent.pk, "x"), create_checkpoint(agent.pk)
    Checkpoint.objects.filter(pk=first.pk).update(created_at=timezone.now() - timedelta(hours=1))
    assert find_checkpoint(agent.pk, str(first.pk)) == first
    assert find_checkpoint(agent.pk, "x") == first
    assert find_checkpoint(agent.pk) == second
    with pytest.raises(UnknownCheckpoint):
        find_checkpoint(agent.pk, "y")


def test_a_checkpoint_of_another_agent_is_refused(agent):
    other = register_agent("reader", "other")
    with pytest.raises(UnknownCheckpoint):
        back(agent, create_checkpoint(other.pk))


@pytest.mark.django_db(transaction=True)
def test_two_writers_of_the_same_keys_do_not_deadlock(agent):
    """Hold one key's row, wait until the other writer waits for it, then let go: the later value wins."""
    write_state(agent.pk, {"a": 0, "b": 0})
    done = threading.Event()

    def other() -> None:
        write_state(agent.pk, {"b": "other", "a": "other"})
        connection.close()
        done.set()

    with transaction.atomic():
        write_state(agent.pk, {"a": "first"})
        thread = threading.Thread(target=other)
        thread.start()
        wait_until_somebody_waits_for_a_lock()
        write_state(agent.pk, {"b": "first"})
    assert done.wait(60)
    thread.join()
    assert read_state(agent.pk) == {"a": "other", "b": "other"}


def wait_until_somebody_waits_for_a_lock() -> None:
    deadline = timezone.now() + timedelta(seconds=60)
    with connection.cursor() as cursor:
        while timezone.now() < deadline:
            cursor.execute("SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted)")
            if cursor.fetchone()[0]:
                return
    raise AssertionError("nobody waits for a lock")


def test_false_is_not_zero_and_true_is_not_one(agent):
    for value in (False, 0, True, 1, [False], [0]):
        write_state(agent.pk, {"a": value})
        assert str(read_state(agent.pk)["a"]) == str(value)
