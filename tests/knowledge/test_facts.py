import threading
import time
from contextlib import contextmanager
from datetime import timedelta
from uuid import uuid4

import pytest
from django.db import connection, connections, transaction
from django.utils import timezone

from agents.registry import register_agent
from knowledge.claims import MAX_VALUE_CHARACTERS, Claim
from knowledge.errors import BadClaim, UnknownFact
from knowledge.facts import assert_fact, assert_facts, close_fact, facts_of, history_of, retract_fact
from knowledge.models import Fact

pytestmark = pytest.mark.django_db
SERVICE = ("service", "billing")


def owner(value, **options):
    return assert_fact(*SERVICE, "owner", value, **options)


def values(found):
    return [fact.text for fact in found]


# -- asserting ----------------------------------------------------------------------------------------------
def test_a_text_is_kept_under_the_guides_name():
    fact = owner("platform group")
    assert (fact.object_type, fact.object_value) == ("text", {"text_content": "platform group"})
    assert fact.text == "platform group"


@pytest.mark.parametrize(
    ("value", "object_type"),
    [(True, "boolean"), (0, "number"), (1.5, "number"), ([], "array"), ({"a": None}, "object"), ("", "text")],
)
def test_any_json_but_null_is_a_value(value, object_type):
    fact = owner(value)
    assert fact.object_type == object_type
    assert fact.object_value == ({"text_content": ""} if value == "" else value)


def test_asserting_the_same_value_again_changes_nothing():
    first = owner("platform group", confidence=0.5)
    again = owner("platform group", confidence=0.9)
    assert again.pk == first.pk
    assert (again.updated_at, again.confidence_score) == (first.updated_at, first.confidence_score)
    assert Fact.objects.count() == 1


def test_a_new_value_supersedes_the_old_one():
    old, new = owner("platform group"), owner("payments team")
    old.refresh_from_db()
    assert old.superseded_by_id == new.pk
    assert old.valid_until == new.valid_from
    assert old.closed_at == new.created_at
    assert (new.valid_until, old.retracted_at) == (None, None)
    assert values(facts_of("billing")) == ["payments team"]
    assert values(history_of("billing")) == ["payments team", "platform group"]


def test_an_earlier_value_may_come_back():
    for value in ("a", "b", "a"):
        owner(value)
    assert values(history_of("billing")) == ["a", "b", "a"]
    assert values(facts_of("billing")) == ["a"]


def test_a_value_of_the_same_beginning_corrects_the_old_one():
    since = timezone.now() - timedelta(days=1)
    old, new = owner("platfrom group", valid_from=since), owner("platform group", valid_from=since)
    old.refresh_from_db()
    assert (old.retracted_at, old.superseded_by_id, old.valid_until) == (new.created_at, new.pk, None)
    assert values(facts_of("billing", as_of=since)) == ["platform group"]


def test_many_values_of_one_predicate_stand_beside_each_other():
    for name in ("ledger", "mail", "ledger"):
        assert_fact(*SERVICE, "depends on", name, many=True)
    assert sorted(values(facts_of("billing"))) == ["ledger", "mail"]


def test_a_value_cannot_begin_before_the_one_that_is_known():
    known = owner("platform group")
    with pytest.raises(BadClaim, match="billing owner: another value is known from") as caught:
        owner("payments team", valid_from=known.valid_from - timedelta(microseconds=1))
    assert str(known.pk) in caught.value.hint
    assert values(history_of("billing")) == ["platform group"]


def test_a_value_that_begins_later_ends_the_old_one_then():
    later = timezone.now() + timedelta(days=1)
    owner("platform group")
    owner("payments team", valid_from=later)
    assert values(facts_of("billing")) == ["platform group"]
    assert values(facts_of("billing", as_of=later)) == ["payments team"]


def test_an_unknown_source_is_refused():
    with pytest.raises(BadClaim, match="is not present") as caught:
        owner("platform group", source_agent_id=uuid4())
    assert "agents list" in caught.value.hint
    assert not Fact.objects.exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"entity_type": ""}, "entity_type='': must have 1 to 100 characters, has 0"),
        ({"entity_id": "x" * 256}, "must have 1 to 255 characters, has 256"),
        ({"predicate": 7}, "predicate=7: must be a text"),
        ({"predicate": "a\0b"}, "must not contain NUL"),
        ({"value": None}, "value: must not be null"),
        ({"value": float("nan")}, "value: not JSON"),
        ({"value": {"a": object()}}, "value: not JSON"),
        ({"value": "a\0b"}, "value: must not contain NUL"),
        ({"value": "\ud800"}, "value: not JSON"),
        ({"value": "x" * MAX_VALUE_CHARACTERS}, f"the limit is {MAX_VALUE_CHARACTERS}"),
        ({"evidence": []}, "evidence=.*must be a JSON object"),
        ({"confidence": 1.01}, "confidence=1.01: must be a number from 0 to 1"),
        ({"confidence": True}, "confidence=True: must be"),
        ({"valid_from": timezone.now().replace(tzinfo=None)}, "has no time zone"),
    ],
)
def test_what_breaks_a_rule_is_refused_early(change, message):
    with pytest.raises(BadClaim, match=message):
        Claim(**{"entity_type": "t", "entity_id": "e", "predicate": "p", "value": 1, **change})


@pytest.mark.parametrize(
    "change", [{"entity_id": "x" * 255}, {"confidence": 1}, {"confidence": 0}, {"value": False}]
)
def test_the_bounds_themselves_are_accepted(change):
    assert_facts([Claim(**{"entity_type": "t", "entity_id": "e", "predicate": "p", "value": 1, **change})])
    assert Fact.objects.count() == 1


# -- batches ------------------------------------------------------------------------------------------------
def batch(number, value="1"):
    return [Claim("service", f"s{n}", "owner", f"{value}") for n in range(number)]


def test_a_batch_is_one_statement(django_assert_num_queries):
    with django_assert_num_queries(3):  # with the savepoint around it
        done = assert_facts(batch(500))
    assert (done.added, len(set(done.fact_ids))) == (500, 500)


def test_a_batch_may_be_repeated():
    first, again = assert_facts(batch(20)), assert_facts(batch(20))
    assert again.fact_ids == first.fact_ids
    assert (again.added, again.superseded, again.unchanged) == (0, 0, 20)
    assert assert_facts(batch(20, "2")).superseded == 20


def test_of_claims_that_contradict_each_other_the_last_one_counts():
    done = assert_facts([Claim(*SERVICE, "owner", value) for value in "abc"])
    assert (done.added, len(set(done.fact_ids))) == (1, 1)
    assert values(facts_of("billing")) == ["c"]


def test_a_batch_with_one_bad_claim_stores_nothing():
    known = owner("platform group")
    early = Claim(*SERVICE, "owner", "x", valid_from=known.valid_from - timedelta(days=1))
    with pytest.raises(BadClaim):
        assert_facts([*batch(5), early])
    assert Fact.objects.count() == 1


def test_an_empty_batch_asks_nothing(django_assert_num_queries):
    with django_assert_num_queries(0):
        assert assert_facts([]).fact_ids == []


# -- times --------------------------------------------------------------------------------------------------
def test_what_held_and_what_was_known_are_two_questions():
    monday = timezone.now() - timedelta(days=7)
    owner("platform group", valid_from=monday)
    before_the_news = timezone.now()
    wednesday = monday + timedelta(days=2)
    owner("payments team", valid_from=wednesday)

    assert values(facts_of("billing", as_of=monday)) == ["platform group"]
    assert values(facts_of("billing", as_of=wednesday)) == ["payments team"]
    # what was known then: the platform group, with no end in sight
    assert values(facts_of("billing", as_of=wednesday, known_at=before_the_news)) == ["platform group"]
    assert facts_of("billing", as_of=monday - timedelta(seconds=1)) == []
    assert facts_of("billing", known_at=monday) == []


def test_a_retracted_fact_was_known_until_then():
    fact = owner("platform group")
    before = timezone.now()
    retracted = retract_fact(fact.pk, "hearsay")
    assert retracted.evidence == {"retraction": "hearsay"}
    assert facts_of("billing") == []
    assert values(facts_of("billing", known_at=before)) == ["platform group"]
    assert values(history_of("billing")) == ["platform group"]


def test_retracting_twice_keeps_the_first_time_and_reason():
    fact = owner("platform group")
    first = retract_fact(fact.pk, "hearsay")
    again = retract_fact(fact.pk, "other")
    assert (again.retracted_at, again.evidence) == (first.retracted_at, first.evidence)


def test_a_retracted_value_may_be_asserted_again():
    fact = owner("platform group")
    retract_fact(fact.pk)
    assert owner("platform group").pk != fact.pk


def test_a_fact_may_end_without_a_successor():
    fact = owner("platform group", valid_from=timezone.now() - timedelta(days=1))
    end = timezone.now() - timedelta(hours=1)
    assert close_fact(fact.pk, end).valid_until == end
    assert close_fact(fact.pk).valid_until == end
    assert facts_of("billing") == []
    assert values(facts_of("billing", as_of=end - timedelta(seconds=1))) == ["platform group"]


def test_a_fact_cannot_end_before_it_began():
    fact = owner("platform group")
    with pytest.raises(BadClaim, match="must be after"):
        close_fact(fact.pk, fact.valid_from)


@pytest.mark.parametrize("change", [retract_fact, close_fact])
def test_an_unknown_fact_is_an_error_with_a_hint(change):
    with pytest.raises(UnknownFact, match="no such fact"):
        change(uuid4())


def test_provenance_outlives_the_agent():
    agent = register_agent("reader", "r")
    fact = owner("platform group", source_agent_id=agent.pk)
    with connection.cursor() as cursor:
        cursor.execute("DELETE FROM agents.lifecycle_events WHERE agent_id = %s", [agent.pk])
        cursor.execute("DELETE FROM agents.registry WHERE agent_id = %s", [agent.pk])
    fact.refresh_from_db()
    assert fact.source_agent_id is None


# -- two writers --------------------------------------------------------------------------------------------
@contextmanager
def writer_that_waits(write):
    """Run `write` in a thread while the block holds the fact; leave the block when it waits for a lock."""
    failures = []

    def run():
        try:
            write()
        except Exception as error:
            failures.append(error)
        finally:
            connections.close_all()

    thread = threading.Thread(target=run)
    with transaction.atomic():
        yield
        thread.start()
        wait_for_a_waiter()
    thread.join(timeout=60)
    assert not thread.is_alive()
    assert not failures, failures


def wait_for_a_waiter():
    deadline = time.monotonic() + 20
    with connection.cursor() as cursor:
        while True:
            cursor.execute(
                "SELECT pg_stat_clear_snapshot()"
            )  # a transaction sees pg_stat_activity as at its first look
            cursor.execute(
                "SELECT count(*) FROM pg_locks l JOIN pg_stat_activity a USING (pid)"
                " WHERE NOT l.granted AND a.datname = current_database()"
            )
            if cursor.fetchone()[0]:
                return
            assert time.monotonic() < deadline, "nobody waited"


@pytest.mark.django_db(transaction=True)
def test_of_two_writers_of_a_known_fact_the_later_one_replaces_the_first():
    owner("a")
    with writer_that_waits(lambda: owner("c")):
        owner("b")
    history = history_of("billing")
    assert values(history) == ["c", "b", "a"]
    assert [fact.superseded_by_id for fact in history] == [None, history[0].pk, history[1].pk]
    assert history[1].valid_until == history[0].valid_from


@pytest.mark.django_db(transaction=True)
def test_of_two_writers_of_a_new_fact_the_later_one_replaces_the_first():
    with writer_that_waits(lambda: owner("b")):
        owner("a")
    assert values(history_of("billing")) == ["b", "a"]
    assert values(facts_of("billing")) == ["b"]


@pytest.mark.django_db(transaction=True)
def test_two_writers_of_the_same_new_value_store_it_once():
    with writer_that_waits(lambda: owner("a")):
        owner("a")
    assert values(history_of("billing")) == ["a"]


@pytest.mark.django_db(transaction=True)
def test_two_writers_of_one_of_many_values_store_it_once():
    def depend():
        assert_fact(*SERVICE, "depends on", "mail", many=True)

    with writer_that_waits(depend):
        depend()
    assert values(history_of("billing")) == ["mail"]


@pytest.mark.django_db(transaction=True)
def test_batches_in_opposite_order_do_not_deadlock():
    """Each meets the other half-way in its own order; sorted by key, the later one waits, then wins every fact."""
    forwards, backwards = batch(50, "a"), list(reversed(batch(50, "b")))
    with writer_that_waits(lambda: assert_facts(backwards)):
        assert_facts(forwards)
    assert {fact.text for fact in Fact.objects.held()} == {"b"}
    assert Fact.objects.exclude(superseded_by=None).count() == 50


@pytest.mark.django_db(transaction=True)
def test_a_writer_whose_forerunner_rolls_back_writes_as_if_it_had_not_been():
    class Undone(Exception):
        pass

    done = []
    with pytest.raises(Undone), writer_that_waits_and_is_undone(lambda: done.append(owner("b")), Undone):
        owner("a")
    assert values(history_of("billing")) == ["b"]


@contextmanager
def writer_that_waits_and_is_undone(write, error):
    thread = threading.Thread(target=lambda: (write(), connections.close_all()))
    try:
        with transaction.atomic():
            yield
            thread.start()
            wait_for_a_waiter()
            raise error
    finally:
        thread.join(timeout=60)
        assert not thread.is_alive()
