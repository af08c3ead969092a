import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
from django.db import connection
from django.utils import timezone
from psycopg import ClientCursor

from messaging.channels import create_channel, subscribe
from messaging.delivery import (
    MAX_ATTEMPTS,
    QUERIES,
    acknowledge,
    bury_deliveries,
    expire_deliveries,
    list_dead,
    open_window,
    redrive,
    reject,
    take,
)
from messaging.jobs import sweep_deliveries
from messaging.models import Delivery, Message
from messaging.send import send
from pg.errors import Refused
from tests.messaging.conftest import end_leases, pass_time, rows, states

pytestmark = pytest.mark.django_db


def payloads(taken):
    return [item.payload for item in taken]


def test_the_urgent_come_first_then_the_oldest(bob):
    for name, priority in (("a", 0), ("b", 5), ("c", 5), ("d", 10)):
        send(name, to_agent=bob.pk, priority=priority)
    assert payloads(take(bob.pk, 3)) == ["d", "b", "c"]
    assert payloads(take(bob.pk, 3)) == ["a"]
    assert take(bob.pk, 3) == []


def test_nobody_takes_another_agent_s_messages(ann, bob):
    send(1, to_agent=bob.pk)
    assert take(ann.pk) == []


@pytest.mark.parametrize("options", [{"limit": 0}, {"lease_seconds": 0}])
def test_nothing_is_taken_by_halves(bob, options):
    with pytest.raises(Refused, match="more than 0"):
        take(bob.pk, **options)


def test_the_first_recipient_s_times_are_the_message_s(ann, bob, cat):
    send(1, broadcast_to_type="reader", from_agent=ann.pk)
    assert Message.objects.get().delivered_at is None
    [first] = take(bob.pk)
    message = Message.objects.get()
    assert message.delivered_at == Delivery.objects.get(agent=bob).delivered_at
    assert (message.delivery_attempts, message.processed_at) == (1, None)
    [second] = take(cat.pk)
    acknowledge(second)
    acknowledge(first)
    done = Message.objects.get()
    assert done.delivered_at == message.delivered_at
    assert done.processed_at == Delivery.objects.get(agent=cat).processed_at


def test_acknowledging_twice_changes_nothing(bob):
    send(1, to_agent=bob.pk)
    [taken] = take(bob.pk)
    assert acknowledge() == 0
    assert [acknowledge(taken), acknowledge(taken)] == [1, 0]
    assert reject(taken, "late") is None
    assert states() == ["processed"]


def test_many_are_acknowledged_at_once(bob):
    for number in range(5):
        send(number, to_agent=bob.pk)
    assert acknowledge(*take(bob.pk, 5)) == 5
    assert states() == ["processed"] * 5
    assert not Message.objects.filter(processed_at=None).exists()


# -- leases ---------------------------------------------------------------------------------------------------
def test_a_lease_that_ran_out_is_taken_again_and_the_first_holder_is_too_late(bob):
    send(1, to_agent=bob.pk)
    [first] = take(bob.pk)
    assert take(bob.pk) == []
    end_leases()
    [second] = take(bob.pk)
    assert (first.attempt, second.attempt) == (1, 2)
    assert [acknowledge(first), reject(first, "x"), acknowledge(second)] == [0, None, 1]
    assert Message.objects.get().delivery_attempts == 2


def test_a_late_acknowledgement_counts_as_long_as_nobody_else_took_it(bob):
    send(1, to_agent=bob.pk)
    [taken] = take(bob.pk)
    end_leases()
    assert acknowledge(taken) == 1


def test_a_rejected_message_comes_again_after_its_delay(bob):
    send(1, to_agent=bob.pk)
    [taken] = take(bob.pk)
    assert reject(taken, "not now", delay_seconds=60) == "pending"
    assert take(bob.pk) == []
    pass_time(seconds=61)
    assert take(bob.pk)[0].attempt == 2


def test_delays_double(bob):
    send(1, to_agent=bob.pk)
    for attempt in range(1, MAX_ATTEMPTS):
        [taken] = take(bob.pk)
        before = timezone.now()
        reject(taken, "no")
        delay = (Delivery.objects.get().next_at - before).total_seconds()
        assert 2**attempt / 2 - 1 <= delay <= 2**attempt + 1
        pass_time(seconds=2**attempt)


def test_it_dies_when_its_attempts_are_spent(bob):
    send(1, to_agent=bob.pk)
    outcomes = [reject(take(bob.pk)[0], f"no {n}", delay_seconds=0) for n in range(MAX_ATTEMPTS)]
    assert outcomes == ["pending"] * (MAX_ATTEMPTS - 1) + ["failed"]
    assert Delivery.objects.get().error == f"no {MAX_ATTEMPTS - 1}"
    assert take(bob.pk) == []


@pytest.mark.parametrize("error", ["", " ", "\0"])
def test_it_dies_at_once_when_another_attempt_is_useless(bob, error):
    send(1, to_agent=bob.pk)
    assert reject(take(bob.pk)[0], error, may_retry=False) == "failed"
    assert Delivery.objects.get().error


def test_leases_that_all_ran_out_end_as_dead(bob):
    send(1, to_agent=bob.pk)
    for _ in range(MAX_ATTEMPTS):
        assert bury_deliveries() == 0
        assert take(bob.pk)
        assert bury_deliveries() == 0
        end_leases()
    assert take(bob.pk) == []
    assert [bury_deliveries(), bury_deliveries()] == [1, 0]
    assert f"lease {MAX_ATTEMPTS}" in Delivery.objects.get().error


# -- expiry ---------------------------------------------------------------------------------------------------
def test_what_expired_is_skipped_and_swept(bob):
    send("soon", to_agent=bob.pk, expires_at=timezone.now() + timedelta(minutes=5))
    send("later", to_agent=bob.pk, expires_at=timezone.now() + timedelta(minutes=7))
    pass_time(minutes=6)
    assert payloads(take(bob.pk, 5)) == ["later"]
    assert [expire_deliveries(), expire_deliveries()] == [1, 0]
    assert states() == ["delivered", "expired"]


def test_a_leased_one_expires_only_after_its_lease(bob):
    send(1, to_agent=bob.pk)
    [taken] = take(bob.pk)
    rows("UPDATE messages.deliveries SET expires_at = now() - interval '1 s'")
    assert expire_deliveries() == 0
    assert acknowledge(taken) == 1


def test_a_leased_one_that_was_let_go_expires(bob):
    send(1, to_agent=bob.pk)
    take(bob.pk)
    rows("UPDATE messages.deliveries SET expires_at = now() - interval '1 s'")
    end_leases()
    assert expire_deliveries() == 1


def test_the_sweep_does_both_in_batches(bob, monkeypatch):
    monkeypatch.setattr("messaging.jobs.BATCH", 2)
    for _ in range(5):
        send(1, to_agent=bob.pk)
    pass_time(days=8)
    send(2, to_agent=bob.pk)
    rows("UPDATE messages.deliveries SET attempts = 4 WHERE next_at > now() - interval '1 day'")
    take(bob.pk)
    end_leases()
    assert sweep_deliveries() == {"expired": 5, "failed": 1}
    assert sweep_deliveries() == {"expired": 0, "failed": 0}


# -- redrive --------------------------------------------------------------------------------------------------
@pytest.fixture
def dead(bob):
    send("x", to_agent=bob.pk)
    reject(take(bob.pk)[0], "broken", may_retry=False)
    return Delivery.objects.get()


def test_a_dead_delivery_is_sent_again_with_all_its_attempts(bob, dead):
    assert list_dead() == list_dead(bob.pk) == [dead.pk]
    assert [redrive([dead.pk]), redrive([dead.pk])] == [1, 0]
    [taken] = take(bob.pk)
    assert (taken.payload, taken.attempt) == ("x", 1)
    assert list_dead() == []


def test_a_dead_delivery_of_last_week_is_sent_again(bob, dead):
    rows(
        "SELECT partitions.create_time_partition('messages.deliveries', (now() AT TIME ZONE 'UTC')::date - 20)"
    )
    rows(
        "UPDATE messages.deliveries SET delivery_id = partitions.uuid7_at(now() - interval '20 days'),"
        " expires_at = now() - interval '13 days'"
    )
    assert redrive(list_dead()) == 1
    assert take(bob.pk)[0].payload == "x"


def test_what_is_not_dead_or_has_lost_its_message_stays(bob, dead):
    sent = send("y", to_agent=bob.pk)
    assert redrive(Delivery.objects.filter(message_id=sent.message_id).values_list("pk", flat=True)) == 0
    rows("DELETE FROM messages.log WHERE message_id = %s", dead.message_id)
    assert redrive([dead.pk]) == 0
    assert list_dead() == [dead.pk]


# -- queues ---------------------------------------------------------------------------------------------------
@pytest.fixture
def jobs(bob, cat):
    create_channel("jobs", "queue")
    for agent in (bob, cat):
        subscribe(agent.pk, "jobs")


def test_each_message_of_a_queue_goes_to_one_subscriber(ann, bob, cat, jobs):
    for number in range(4):
        send(number, channel="jobs")
    assert take(ann.pk, 4) == []
    assert (payloads(take(bob.pk, 2)), payloads(take(cat.pk, 4))) == ([0, 1], [2, 3])
    assert set(Delivery.objects.values_list("agent__agent_name", flat=True)) == {"bob", "cat"}


def test_a_queue_s_message_goes_to_another_after_a_rejection_or_a_lost_lease(bob, cat, jobs):
    send(1, channel="jobs")
    [first] = take(bob.pk)
    reject(first, "no", delay_seconds=0)
    assert Delivery.objects.get().agent is None
    [second] = take(cat.pk)
    end_leases()
    [third] = take(bob.pk)
    assert (second.attempt, third.attempt) == (2, 3)
    assert [acknowledge(second), acknowledge(third)] == [0, 1]


def test_own_messages_and_queues_are_taken_in_one_order(bob, jobs):
    send("own", to_agent=bob.pk, priority=1)
    send("urgent", channel="jobs", priority=2)
    send("slow", channel="jobs")
    assert payloads(take(bob.pk, 2)) == ["urgent", "own"]
    assert Delivery.objects.get(state="pending").agent is None


def test_a_queue_s_subscriber_gets_what_fits(bob, cat):
    create_channel("jobs", "queue")
    subscribe(bob.pk, "jobs", pattern="print.>", filters={"colour": True})
    subscribe(cat.pk, "jobs", pattern="scan")
    subscribe(cat.pk, "jobs", pattern="print.*")
    send({"colour": False}, channel="jobs", subject="print.a4")
    send({"colour": True}, channel="jobs", subject="print.a3")
    send({}, channel="jobs", subject="scan")
    assert payloads(take(bob.pk, 9)) == [{"colour": True}]
    assert payloads(take(cat.pk, 9)) == [{"colour": False}, {}]


def test_a_queue_s_dead_message_is_redriven_to_all(bob, cat, jobs):
    send(1, channel="jobs")
    reject(take(bob.pk)[0], "no", may_retry=False)
    redrive(list_dead())
    assert payloads(take(cat.pk)) == [1]


# -- beside each other ----------------------------------------------------------------------------------------
@pytest.mark.django_db(transaction=True)
def test_takers_beside_each_other_get_each_message_once(bob, cat, jobs):
    for number in range(200):
        send(number, channel="jobs")
    together = threading.Barrier(4)

    def work(agent_id):
        together.wait(30)
        done = []
        while taken := take(agent_id, 7):
            acknowledge(*taken)
            done += payloads(taken)
        connection.close()
        return done

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(work, [bob.pk, cat.pk, bob.pk, cat.pk]))
    assert sorted(number for part in found for number in part) == list(range(200))
    assert states() == ["processed"] * 200


TWO_MESSAGES = """
WITH a AS (INSERT INTO agents.registry (agent_type, agent_name) VALUES ('x', 'x') RETURNING agent_id),
m AS (INSERT INTO messages.log (to_agent_id, message_type)
      SELECT agent_id, 'command' FROM a, generate_series(1, 2) RETURNING message_id, to_agent_id)
INSERT INTO messages.deliveries (message_id, agent_id, next_at)
SELECT message_id, to_agent_id, now() - interval '1 s' FROM m RETURNING agent_id
"""


def test_a_taker_never_waits_for_another(own_database):
    """The first holds its lease uncommitted; the second gets the next delivery at once."""
    lease = QUERIES.text("lease", limit=1)
    with own_database.connect() as first, own_database.connect() as second:
        agent_id = first.execute(TWO_MESSAGES).fetchone()[0]
        second.execute("SET lock_timeout = '2s'")
        values = {"agent_id": agent_id, "lease_seconds": 60, "max_attempts": 5, **open_window()}
        with first.transaction():
            [one] = ClientCursor(first).execute(lease, values).fetchall()
            [two] = ClientCursor(second).execute(lease, values).fetchall()
    assert one[0] != two[0]


# -- cost -----------------------------------------------------------------------------------------------------
def test_taking_nothing_is_one_query_and_taking_something_two(bob, django_assert_num_queries):
    with django_assert_num_queries(1):
        take(bob.pk)
    send(1, to_agent=bob.pk)
    with django_assert_num_queries(2):
        taken = take(bob.pk)
    with django_assert_num_queries(1):
        acknowledge(*taken)


def test_open_deliveries_are_found_by_index_in_the_last_days_only(bob):
    values = {"agent_id": bob.pk, "lease_seconds": 60, "max_attempts": 5, **open_window()}
    rows("SET LOCAL enable_seqscan = off")
    with connection.cursor() as cursor:
        cursor.execute("EXPLAIN " + QUERIES.text("lease", limit=1), values)
        plan = "\n".join(row[0] for row in cursor.fetchall())
    tomorrow = timezone.now().date() + timedelta(days=2)
    assert f"deliveries_{tomorrow:%Y_%m_%d}" not in plan
    assert "Seq Scan on deliveries" not in plan
