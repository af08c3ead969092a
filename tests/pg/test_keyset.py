"""Pages by key: together they are the whole list, whatever is tied, filtered, added or deleted meanwhile."""

import re
from datetime import timedelta

import pytest
from django.contrib import admin
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from agents.models import Agent
from messaging.models import Message
from pg.admin import BigTableAdmin
from pg.keyset import Key, WrongCursor, read_page
from pg.uuid7 import uuid7_at
from sessions.lifecycle import open_session
from sessions.models import Session

pytestmark = pytest.mark.django_db
NEWEST_FIRST = ["-pk"]


def add_messages(count):
    moment = timezone.now()
    return Message.objects.bulk_create(
        Message(message_id=uuid7_at(moment, n), message_type="heartbeat", sent_at=moment)
        for n in range(count)
    )


def add_sessions(count, tied=3):
    """Sessions that end at the same moment in groups of `tied`."""
    agent = Agent.objects.create(agent_type="t", agent_name="a")
    sessions = [open_session(timedelta(hours=1), agent_id=agent.pk)[0] for _ in range(count)]
    for number, session in enumerate(sessions):
        ends = timezone.now() + timedelta(hours=1 + number // tied)
        Session.objects.filter(pk=session.pk).update(expires_at=ends.replace(microsecond=123456))


def walk(rows, key, size, direction="after"):
    """Return the keys of every page, from the first one on or from the last one back."""
    pages, place = [], None if direction == "after" else []
    while True:
        page = read_page(rows, key, size, **{direction: place})
        pages.append([row.pk for row in page.rows])
        place = getattr(page, direction)
        if place is None:
            return pages
        assert len(pages) < 100


@pytest.mark.parametrize("count", [0, 1, 4, 5, 6, 9, 10, 11])
def test_the_pages_one_after_the_other_are_the_list(count):
    add_messages(count)
    expected = list(Message.objects.order_by("-pk").values_list("pk", flat=True))
    pages = walk(Message.objects.all(), Key(Message, NEWEST_FIRST), 5)
    assert [pk for page in pages for pk in page] == expected
    assert all(len(page) == 5 for page in pages[:-1])
    assert len(pages) == max(1, -(-count // 5))


@pytest.mark.parametrize("count", [0, 1, 5, 6, 11])
def test_the_pages_from_the_last_one_back_are_the_list_too(count):
    add_messages(count)
    rows, key = Message.objects.all(), Key(Message, NEWEST_FIRST)
    pages = walk(rows, key, 5, "before")
    seen = [pk for page in reversed(pages) for pk in page]
    assert sorted(set(seen), reverse=True) == list(rows.order_by("-pk").values_list("pk", flat=True))
    assert all(
        len(page) == 5 for page in pages[1:]
    )  # the first page is a full one: it repeats rows, and misses none


@pytest.mark.parametrize("ordering", [["-expires_at", "-pk"], ["expires_at", "-pk"], ["-expires_at", "pk"]])
@pytest.mark.parametrize("direction", ["after", "before"])
def test_rows_that_are_tied_are_neither_lost_nor_doubled(ordering, direction):
    add_sessions(10)
    expected = list(Session.objects.order_by(*ordering).values_list("pk", flat=True))
    pages = walk(Session.objects.all(), Key(Session, ordering), 2, direction)
    assert [pk for page in (pages if direction == "after" else reversed(pages)) for pk in page] == expected


def test_a_filter_holds_on_every_page():
    add_messages(7)
    agent = Agent.objects.create(agent_type="t", agent_name="a")
    for _ in range(7):
        Message.objects.create(message_type="command", from_agent=agent, to_agent=agent)
    rows = Message.objects.filter(from_agent=agent)
    assert [len(page) for page in walk(rows, Key(Message, NEWEST_FIRST), 3)] == [3, 3, 1]


def test_rows_that_come_meanwhile_move_nothing():
    add_messages(6)
    rows, key = Message.objects.all(), Key(Message, NEWEST_FIRST)
    first = read_page(rows, key, 3)
    Message.objects.create(message_type="heartbeat")
    second = read_page(rows, key, 3, after=first.after)
    assert not {row.pk for row in first.rows} & {row.pk for row in second.rows}
    assert [row.pk for row in read_page(rows, key, 3, before=second.before).rows] == [
        row.pk for row in first.rows
    ]


def test_a_page_whose_rows_have_gone_leads_back():
    add_messages(4)
    rows, key = Message.objects.all(), Key(Message, NEWEST_FIRST)
    first = read_page(rows, key, 2)
    Message.objects.exclude(pk__in=[row.pk for row in first.rows]).delete()
    gone = read_page(rows, key, 2, after=first.after)
    assert (gone.rows, gone.after) == ([], None)
    assert [row.pk for row in read_page(rows, key, 2, before=gone.before).rows] == [
        first.rows[0].pk,
        first.rows[1].pk,
    ]


@pytest.mark.parametrize(
    "place", [["x"], ["1", "2"], [""], ["0198f3e0-0000-7000-8000-00000000000"], ["\0"], ["' OR true --"]]
)
def test_a_place_that_cannot_be_read_is_refused(place):
    with pytest.raises(WrongCursor):
        read_page(Message.objects.all(), Key(Message, NEWEST_FIRST), 5, after=place)


def test_a_moment_without_a_zone_is_taken_as_utc():
    key = Key(Session, ["-expires_at"])
    moment, _ = key.read(["2026-11-26T10:00:00", "0198f3e0-0000-7000-8000-000000000000"])
    assert moment.isoformat() == "2026-11-26T10:00:00+00:00"


def test_a_list_ordered_by_a_column_that_may_be_null_is_refused():
    with pytest.raises(TypeError, match="to_agent"):
        Key(Message, ["to_agent"])


BIG = [(model, shown) for model, shown in admin.site._registry.items() if isinstance(shown, BigTableAdmin)]


@pytest.mark.parametrize(("model", "shown"), BIG, ids=[model._meta.label for model, _ in BIG])
def test_every_big_list_has_an_index_for_its_order(model, shown):
    """Else each page sorts the whole table: see the ordering of its admin, or give the table an index."""
    query, params = Key(model, shown.ordering).sort(model.objects.all())[:51].query.sql_with_params()
    with connection.cursor() as cursor:
        cursor.execute("SET LOCAL enable_seqscan = off; SET LOCAL enable_bitmapscan = off")
        cursor.execute(f"EXPLAIN {query}", params)
        plan = "\n".join(row[0] for row in cursor.fetchall())
    assert not re.search(r"(?<!Incremental )Sort  \(", plan), plan  # an incremental one sorts what is tied


@pytest.mark.parametrize("direction", ["after", "before"])
def test_a_page_is_read_from_the_index_in_order(direction):
    """Neither a sort nor a scan of the table, in the middle of the list, both ways."""
    middle = add_messages(40)[20]
    key = Key(Message, NEWEST_FIRST)
    with CaptureQueriesContext(connection) as captured, connection.cursor() as cursor:
        cursor.execute("SET LOCAL enable_seqscan = off; SET LOCAL enable_bitmapscan = off")
        read_page(Message.objects.all(), key, 5, **{direction: key.of(middle)})
        cursor.execute(f"EXPLAIN {captured.captured_queries[-1]['sql']}")
        plan = "\n".join(row[0] for row in cursor.fetchall())
    assert "Sort" not in plan
    assert "Index Scan" in plan
