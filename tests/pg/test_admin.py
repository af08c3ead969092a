"""pg.admin against the message log: a big, time-partitioned table."""

from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest
from django.contrib.admin import AdminSite
from django.contrib.auth.models import User
from django.db import connection
from django.test import RequestFactory
from django.utils import timezone

from messaging.admin import MessageAdmin
from messaging.models import Message
from pg import admin as pg_admin
from pg.admin import EstimatedPaginator, estimate_rows, parse_uuid
from pg.uuid7 import uuid7_at

pytestmark = pytest.mark.django_db
NEWEST_FIRST = Message.objects.order_by("-pk")


def add_heartbeats(count, moment=None):
    moment = moment or timezone.now()
    return Message.objects.bulk_create(
        Message(message_id=uuid7_at(moment, n), message_type="heartbeat", sent_at=moment)
        for n in range(count)
    )


def pretend_rows(table, number):
    """Let the planner's statistics say that a leaf has so many rows."""
    with connection.cursor() as cursor:
        cursor.execute(
            "UPDATE pg_class SET reltuples = %s WHERE oid ="
            " (SELECT relid FROM pg_partition_tree(%s) WHERE isleaf ORDER BY relid LIMIT 1)",
            [number, table],
        )


@pytest.fixture
def small_limit(monkeypatch):
    monkeypatch.setattr(pg_admin, "EXACT_LIMIT", 20)


def changelist(**query):
    request = RequestFactory().get("/", query)
    request.user = User(is_superuser=True, is_staff=True, is_active=True)
    return MessageAdmin(Message, AdminSite()).get_changelist_instance(request)


# -- counting -----------------------------------------------------------------------------------------------
def test_a_table_that_was_never_analyzed_is_counted(small_limit):
    add_heartbeats(7)
    assert estimate_rows(Message.objects.all()) == 0
    assert EstimatedPaginator(NEWEST_FIRST, 5).count == 7


@pytest.mark.parametrize(("rows", "count"), [(20, 20), (21, 21), (22, 21)])
def test_the_exact_count_stops_one_above_the_limit(small_limit, rows, count):
    add_heartbeats(rows)
    assert EstimatedPaginator(NEWEST_FIRST, 5).count == count


def test_an_estimate_above_the_limit_is_taken(small_limit):
    pretend_rows("messages.log", 5_000_000)
    assert EstimatedPaginator(NEWEST_FIRST, 5).count == 5_000_000


def test_an_estimate_at_the_limit_is_not_trusted(small_limit):
    pretend_rows("messages.log", 20)
    assert EstimatedPaginator(NEWEST_FIRST, 5).count == 0


def test_filtered_rows_are_counted_not_estimated(small_limit):
    add_heartbeats(3)
    pretend_rows("messages.log", 5_000_000)
    assert EstimatedPaginator(NEWEST_FIRST.filter(message_type="heartbeat"), 5).count == 3


def test_an_estimate_that_is_too_low_never_loads_the_whole_table(monkeypatch):
    """With a count of at most list_per_page Django's ChangeList takes every row of the table."""
    add_heartbeats(60)
    pretend_rows("messages.log", 1)
    listed = changelist()
    assert listed.multi_page
    assert len(listed.result_list) == MessageAdmin.list_per_page == 50


def test_a_page_longer_than_the_limit_is_counted_to_its_end(small_limit, django_assert_num_queries):
    add_heartbeats(60)
    with django_assert_num_queries(3) as captured:  # estimate, capped count, the page
        assert len(changelist().result_list) == 50
    counts = [query["sql"] for query in captured.captured_queries if "COUNT(" in query["sql"]]
    assert len(counts) == 1
    assert "LIMIT 51" in counts[0]


# -- searching ----------------------------------------------------------------------------------------------
def plan_of(rows):
    with connection.cursor() as cursor:
        query, params = rows.query.sql_with_params()
        cursor.execute(f"EXPLAIN {query}", params)
        return "\n".join(row[0] for row in cursor.fetchall())


def test_a_pasted_id_is_found_in_its_one_partition():
    wanted = add_heartbeats(3)[1]
    found = changelist(q=f"  {wanted.message_id} ")
    assert [message.pk for message in found.result_list] == [wanted.pk]
    assert plan_of(Message.objects.filter(pk=wanted.pk)).count("Index Scan") == 1


def test_a_pasted_id_of_another_column_is_found():
    correlation = uuid4()
    Message.objects.create(message_type="heartbeat", correlation_id=correlation)
    add_heartbeats(2)
    assert [message.correlation_id for message in changelist(q=correlation.hex).result_list] == [correlation]


@pytest.mark.parametrize("text", ["nothing", "0198f3e0-0000-7000-8000-00000000dead"])
def test_a_search_without_a_match_lists_nothing(text):
    add_heartbeats(2)
    assert changelist(q=text).result_count == 0


@pytest.mark.parametrize(
    ("text", "is_uuid"),
    [
        ("0198f3e0-0000-7000-8000-000000000000", True),
        (" 0198F3E0000070008000000000000000\n", True),
        ("0198f3e0-0000-7000-8000-00000000000", False),
        ("worker", False),
        ("", False),
    ],
)
def test_only_a_whole_uuid_is_taken_for_one(text, is_uuid):
    assert (parse_uuid(text) is not None) == is_uuid


# -- time windows -------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("window", "minutes"), [("15m", 15), ("1h", 60), ("24h", 24 * 60)])
def test_the_time_filter_keeps_what_is_inside_its_window(window, minutes):
    now = timezone.now()
    edge = timedelta(minutes=minutes)
    [inside] = add_heartbeats(1, now - edge + timedelta(seconds=30))
    [outside] = add_heartbeats(1, now - edge - timedelta(seconds=30))
    shown = [message.pk for message in changelist(within=window).result_list]
    assert inside.pk in shown
    assert outside.pk not in shown


def test_an_unknown_time_window_filters_nothing():
    add_heartbeats(2)
    assert changelist(within="century").result_count == 2


def test_between_takes_the_start_and_leaves_the_end():
    start = timezone.now().replace(microsecond=0)
    first, second, third = (add_heartbeats(1, start + timedelta(seconds=n))[0] for n in range(3))
    rows = Message.objects.between(start, start + timedelta(seconds=2))
    assert {message.pk for message in rows} == {first.pk, second.pk}
    assert {m.pk for m in Message.objects.between(start + timedelta(seconds=1), None)} == {
        second.pk,
        third.pk,
    }
    assert {m.pk for m in Message.objects.between(None, start + timedelta(seconds=1))} == {first.pk}


def test_between_reads_only_the_partitions_of_its_days():
    noon = timezone.now().astimezone(UTC).replace(hour=12, minute=0, second=0, microsecond=0)
    plan = plan_of(Message.objects.between(noon, noon + timedelta(hours=1)))
    assert f"log_{noon:%Y_%m_%d}" in plan
    assert plan.count("Scan on log_") <= 2  # a bitmap scan names its index too


def test_between_refuses_a_naive_moment():
    with pytest.raises(TypeError, match="offset-naive"):
        Message.objects.between(datetime(2026, 1, 1), None)  # noqa: DTZ001


# -- read-only ----------------------------------------------------------------------------------------------
def test_history_can_be_viewed_in_full_and_changed_by_nobody(admin_client):
    [message] = add_heartbeats(1)
    base = "/admin/messaging/message/"
    page = admin_client.get(f"{base}{message.pk}/change/")
    assert page.status_code == 200
    for text in (str(message.pk), "Delivery attempts", "Sent at"):
        assert text in page.content.decode()
    assert "_save" not in page.content.decode()
    assert admin_client.get(f"{base}add/").status_code == 403
    assert admin_client.post(f"{base}{message.pk}/change/", {"subject": "x"}).status_code == 403
    assert admin_client.post(f"{base}{message.pk}/delete/", {"post": "yes"}).status_code == 403
    assert admin_client.post(
        base, {"action": "delete_selected", "_selected_action": message.pk}
    ).status_code in (
        200,
        302,
        403,
    )
    assert Message.objects.filter(pk=message.pk).exists()
