"""pg.admin against the message log: a big, time-partitioned table."""

from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest
from django.contrib.admin import AdminSite
from django.contrib.auth.models import User
from django.db import connection
from django.test import RequestFactory
from django.utils import timezone

from agents.models import Agent, AgentState
from messaging.admin import MessageAdmin
from messaging.models import Message
from pg import changelist as pg_changelist
from pg.admin import BigTableAdmin, parse_uuid
from pg.changelist import EstimatedPaginator, estimate_rows
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
    monkeypatch.setattr(pg_changelist, "EXACT_LIMIT", 20)


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


def test_a_rare_type_is_looked_for_in_the_newest_week_unless_all_is_asked_for(admin_client):
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT partitions.create_time_partition('messages.log', (now() AT TIME ZONE 'UTC')::date - n)"
            " FROM generate_series(5, 9) n"
        )
    old, new = (add_heartbeats(1, timezone.now() - timedelta(days=days))[0] for days in (8, 6))
    rare = {"message_type__exact": "heartbeat"}
    assert keys_of(changelist(**rare)) == [new.pk]
    assert keys_of(changelist(**rare, within="all")) == [new.pk, old.pk]
    assert keys_of(changelist()) == [new.pk, old.pk]
    assert keys_of(changelist(**rare, q=str(old.pk))) == [old.pk], "an id is found whenever it was sent"
    page = admin_client.get(LOG, rare).content.decode()
    assert "within=all" in page, "the way to all of them"


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


# -- the list's pages ---------------------------------------------------------------------------------------
LOG = "/admin/messaging/message/"


def shown(response):
    assert response.status_code == 200
    return response.context["cl"]


def keys_of(listed):
    return [row.pk for row in listed.result_list]


def test_a_list_is_walked_to_its_end_and_back_by_its_links(admin_client):
    add_heartbeats(120)
    pages = [shown(admin_client.get(LOG))]
    while pages[-1].next_url:
        pages.append(shown(admin_client.get(LOG + pages[-1].next_url)))
    walked = [key for page in pages for key in keys_of(page)]
    assert walked == list(NEWEST_FIRST.values_list("pk", flat=True))
    assert [len(page.result_list) for page in pages] == [50, 50, 20]
    assert keys_of(shown(admin_client.get(LOG + pages[2].previous_url))) == keys_of(pages[1])
    assert keys_of(shown(admin_client.get(LOG + pages[2].first_url))) == keys_of(pages[0])
    assert keys_of(shown(admin_client.get(LOG + pages[0].last_url))) == walked[-50:]


def test_the_pages_of_a_filtered_and_searched_list_keep_filter_and_search(admin_client):
    for message in add_heartbeats(60):
        message.correlation_id = message.pk
    correlation = uuid4()
    Message.objects.update(correlation_id=correlation)
    add_heartbeats(30, timezone.now() + timedelta(seconds=1))
    first = shown(
        admin_client.get(LOG, {"q": str(correlation), "within": "1h", "message_type__exact": "heartbeat"})
    )
    second = shown(admin_client.get(LOG + first.next_url))
    assert [len(first.result_list), len(second.result_list)] == [50, 10]
    assert {row.correlation_id for row in second.result_list} == {correlation}
    assert second.query == str(correlation)
    assert "after" not in second.get_query_string(
        {"within": "24h"}
    )  # another filter begins at its first page


def test_a_list_of_one_page_is_not_counted(admin_client, django_assert_num_queries):
    add_heartbeats(50)
    with django_assert_num_queries(1):
        listed = changelist()
    assert (listed.result_count, listed.paginator.count_text) == (50, "50")
    assert (listed.previous_url, listed.next_url) == (None, None)


def test_a_big_list_says_that_its_number_is_an_estimate(small_limit, admin_client):
    add_heartbeats(51)
    assert "more than 50 messages" in shown_text(admin_client.get(LOG))
    pretend_rows("messages.log", 5_000_000)
    assert "about 5,000,000 messages" in shown_text(admin_client.get(LOG))


def shown_text(response):
    return " ".join(response.content.decode().split())


@pytest.mark.parametrize(
    "place",
    [
        "after=x",
        "before=x",
        "after=%00",
        "after=0198f3e0-0000-7000-8000-000000000000&after=2",
        "after=1%27--",
    ],
)
def test_a_wrong_place_in_the_address_shows_the_first_page_and_says_so(admin_client, place):
    add_heartbeats(60)
    answer = admin_client.get(f"{LOG}?{place}")
    assert keys_of(shown(answer)) == list(NEWEST_FIRST.values_list("pk", flat=True)[:50])
    assert "names no place in this list" in answer.content.decode()


def test_an_order_or_a_page_number_of_an_old_address_changes_nothing(admin_client):
    add_heartbeats(60)
    first = keys_of(shown(admin_client.get(LOG)))
    for query in ("?o=2.-3", "?p=1", "?p=99", "?all=", "?_facets=True"):
        assert keys_of(shown(admin_client.get(LOG + query))) == first


# -- actions on all that match ------------------------------------------------------------------------------
@pytest.fixture
def states():
    agent = Agent.objects.create(agent_type="t", agent_name="a")
    return AgentState.objects.bulk_create(
        AgentState(agent=agent, state_key=f"k{number}", state_value=number) for number in range(60)
    )


def delete_all(client, query, **form):
    chosen = {"action": "delete_selected", "select_across": "1", "index": "0", **form}
    return client.post(f"/admin/agents/agentstate/{query}", chosen, follow=True)


def test_an_action_on_all_that_match_takes_the_other_pages_too(admin_client, states):
    second = shown(admin_client.get("/admin/agents/agentstate/")).next_url
    delete_all(admin_client, second, _selected_action=states[0].pk, post="yes")
    assert not AgentState.objects.exists()


def test_an_action_on_more_than_the_limit_is_refused_and_changes_nothing(admin_client, states, monkeypatch):
    monkeypatch.setattr(BigTableAdmin, "across_limit", 59)
    page = admin_client.get("/admin/agents/agentstate/").content.decode()
    assert "filter them to 59 at most" in page
    assert "Select all 60" not in page
    answer = delete_all(admin_client, "", _selected_action=states[0].pk, post="yes")
    assert "More than 59 rows match, none was changed" in answer.content.decode()
    assert AgentState.objects.count() == 60


def test_an_action_on_chosen_rows_leaves_the_others(admin_client, states):
    delete_all(admin_client, "", _selected_action=states[3].pk, post="yes", select_across="0")
    assert AgentState.objects.count() == 59


# -- windows of one's own -----------------------------------------------------------------------------------
def test_a_window_of_one_s_own_takes_its_start_and_leaves_its_end():
    start = timezone.now().replace(microsecond=0)
    rows = [add_heartbeats(1, start + timedelta(seconds=n))[0].pk for n in range(4)]
    chosen = {
        "from": f"{start + timedelta(seconds=1):%Y-%m-%dT%H:%M:%S}",
        "to": (start + timedelta(seconds=3)).isoformat(),
    }
    assert {row.pk for row in changelist(**chosen).result_list} == set(rows[1:3])
    assert {row.pk for row in changelist(to=chosen["to"]).result_list} == set(rows[:3])
    assert {row.pk for row in changelist(within="15m", **{"from": chosen["from"]}).result_list} == set(
        rows[1:]
    )


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("from=yesterday", "is not a time such as 2026-03-01T12:00"),
        ("from=2026-03-02T00:00&to=2026-03-02T00:00", "from must be before to"),
        ("to=0001-01-01T00:00%2B01:00", "Nothing is listed"),
    ],
)
def test_a_wrong_window_lists_nothing_and_says_why(admin_client, query, said):
    add_heartbeats(2)
    answer = admin_client.get(f"{LOG}?{query}")
    assert keys_of(shown(answer)) == []
    assert said in answer.content.decode()
