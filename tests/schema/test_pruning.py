"""Reading by id or by a window of time touches the partitions that can hold the rows, and no other."""

import ast
import re
from datetime import UTC, datetime, timedelta

import pytest
from django.contrib import admin
from django.db import connection, connections, models
from django.test import RequestFactory
from django.utils import timezone

from agents.models import LifecycleEvent, StateHistory
from messaging.admin import MessageAdmin
from messaging.models import Delivery, Message
from messaging.send import Sent, responses_to
from pg.admin import TimeWindowFilter
from pg.querysets import TimeWindowQuerySet
from pg.uuid7 import uuid7, uuid7_at, uuid7_floor
from tasks.models import Execution
from tests.conftest import replace_database
from tests.schema.catalog import ROOMS, ROOT, name_of, room_models, rows
from tests.schema.plans import watched_plans

TIME_MODELS = [
    model
    for model in room_models()
    if hasattr(model, "partitioning") and model.partitioning.strategy == "range"
]
LOG = "messages.log"
DAYS = 400
ELSEWHERE = {"knowledge/querysets.py"}  # facts have a created_at too, and are not partitioned by it


# -- rules --------------------------------------------------------------------------------------------------
def time_columns():
    """The columns that look like the row's time, of the tables whose partitions only the id finds."""
    return {
        field.name
        for model in TIME_MODELS
        for field in model._meta.concrete_fields
        if field.name in ("created_at", "sent_at", "started_at", "changed_at")
    }


def test_the_five_time_tables_are_known():
    assert {LifecycleEvent, StateHistory, Execution, Message, Delivery} <= set(TIME_MODELS)


@pytest.mark.parametrize("model", TIME_MODELS, ids=name_of)
def test_every_model_of_a_time_table_has_the_window(model):
    assert issubclass(type(model._default_manager.all()), TimeWindowQuerySet), (
        "give it `objects = TimeWindowQuerySet.as_manager()`"
    )


def test_no_code_filters_a_time_table_by_its_time_column():
    lookup = re.compile(rf"({'|'.join(sorted(time_columns()))})__(gte?|lte?|range|date|year|month|day)$")
    found = [
        f"{path.relative_to(ROOT)}:{node.value.lineno} {node.arg}"
        for room in ROOMS
        for path in sorted((ROOT / room).rglob("*.py"))
        if "migrations" not in path.parts and str(path.relative_to(ROOT)) not in ELSEWHERE
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.keyword) and node.arg and lookup.search(node.arg)
    ]
    assert not found, "use .between(start, end): a filter on the column reads every partition"


def test_no_query_filters_a_time_table_by_its_time_column():
    tables = "|".join(re.escape(name_of(model)) for model in TIME_MODELS)
    found = []
    for room in ROOMS:
        for path in sorted((ROOT / room).glob("sql/queries.sql")):
            text = path.read_text("utf-8")
            for name, query in re.findall(r"^-- name: (\w+)$(.*?)(?=^-- name: |\Z)", text, re.M | re.S):
                for alias in set(re.findall(rf"(?:FROM|JOIN|UPDATE) (?:{tables}) (\w+)", query)):
                    compared = re.search(
                        rf"\b{alias}\.({'|'.join(time_columns())})\s*(?:[<>=]|BETWEEN)", query
                    )
                    if compared and f"{alias}.{compared[1]} =" not in query:
                        found.append(f"{room}: {name}: {compared[0]}")
    assert not found, "compare the id with partitions.uuid7_floor(time): the column reads every partition"


@pytest.mark.parametrize("model", TIME_MODELS, ids=name_of)
def test_admin_lists_of_time_tables_offer_the_window_and_read_no_distinct_values(model):
    if not admin.site.is_registered(model):
        return
    shown = admin.site.get_model_admin(model)
    assert shown.date_hierarchy is None, "DISTINCT over every row: use TimeWindowFilter"
    assert TimeWindowFilter in shown.list_filter
    for name in filter(lambda entry: isinstance(entry, str), shown.list_filter):
        field = model._meta.get_field(name)
        assert field.choices or isinstance(field, models.BooleanField), (
            f"{name}: Django would look for its distinct values in every row; write a SimpleListFilter"
        )


# -- 400 partitions -----------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def many_partitions(django_db_setup, django_db_blocker):
    """messages.log has 400 daily partitions, 16 of them from the installation; the others keep what they have."""
    with django_db_blocker.unblock():
        for first in range(2, DAYS - 14, 50):  # a statement's locks must fit into the lock table
            rows(
                "SELECT partitions.create_time_partition(%s, (now() AT TIME ZONE 'UTC')::date - n)"
                " FROM generate_series(%s::int, %s::int) n",
                [LOG, first, min(first + 49, DAYS - 15)],
            )
        assert rows("SELECT count(*) FROM pg_inherits WHERE inhparent = 'messages.log'::regclass") == [
            (DAYS,)
        ]
        yield
        connections.close_all()
        replace_database(None)


@pytest.fixture
def database(many_partitions, db):
    """A test's own transaction in that database."""


TODAY = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
WINDOWS = {
    "today": (TODAY, TODAY + timedelta(days=1)),
    "yesterday": (TODAY - timedelta(days=1), TODAY),
    "an hour": (TODAY, TODAY + timedelta(hours=1)),
}


def touched(action, table=LOG):
    """Return the leaves of `table` that `action` read or wrote, in all that it ran."""
    leaves = {
        row[0]
        for row in rows("SELECT relid::regclass::text FROM pg_partition_tree(%s) WHERE isleaf", [table])
    }
    names = {leaf.rpartition(".")[2].strip('"') for leaf in leaves}
    with watched_plans() as plans:
        action()
    assert plans, "nothing ran"
    return {name for plan in plans for name in plan.relations()} & names


def leaf_of(moment, table=LOG):
    return f"{table.partition('.')[2]}_{moment:%Y_%m_%d}"


def heartbeat(moment):
    return Message.objects.create(message_id=uuid7_at(moment, 1), message_type="heartbeat", sent_at=moment)


@pytest.mark.parametrize("window", WINDOWS)
def test_a_window_of_a_day_reads_one_of_400_partitions(database, window):
    start, end = WINDOWS[window]
    assert touched(lambda: list(Message.objects.between(start, end))) == {leaf_of(start)}
    assert touched(lambda: Message.objects.between(start, end).count()) == {leaf_of(start)}


def test_a_window_over_midnight_reads_two(database):
    start, end = TODAY - timedelta(hours=1), TODAY + timedelta(hours=1)
    assert touched(lambda: list(Message.objects.between(start, end))) == {leaf_of(start), leaf_of(end)}


@pytest.mark.parametrize("days_ago", [0, 1, 384])
def test_an_id_is_looked_up_in_one_of_400_partitions(database, days_ago):
    moment = timezone.now() - timedelta(days=days_ago)
    wanted = uuid7_at(moment, 7)
    only = {leaf_of(moment)}
    assert touched(lambda: Message.objects.filter(pk=wanted).first()) == only
    assert touched(lambda: list(Message.objects.filter(pk__in=[wanted, uuid7_at(moment, 8)]))) == only
    assert touched(lambda: Message.objects.filter(pk=wanted).update(priority=1)) == only
    assert touched(lambda: Message.objects.filter(pk=wanted).delete()) == only


def test_saving_and_refreshing_a_row_touch_its_partition_alone(database):
    row = heartbeat(TODAY + timedelta(minutes=1))
    assert touched(row.save) == {leaf_of(TODAY)}
    assert touched(row.refresh_from_db) == {leaf_of(TODAY)}


def test_relations_look_into_one_partition(database):
    row = heartbeat(TODAY + timedelta(minutes=1))
    delivery = Delivery(message_id=row.pk)
    assert touched(lambda: delivery.message) == {leaf_of(TODAY)}
    deliveries = [Delivery(message_id=row.pk) for _ in range(3)]
    assert touched(lambda: models.prefetch_related_objects(deliveries, "message")) == {leaf_of(TODAY)}


def test_a_join_looks_only_where_the_messages_are(database):
    """The partition is known when the delivery is: the others are pruned while the statement runs."""
    from agents.registry import register_agent

    row, agent = heartbeat(TODAY + timedelta(minutes=1)), register_agent("reader", "one")
    made = Delivery.objects.create(message_id=row.pk, agent=agent)
    joined = Delivery.objects.select_related("message").filter(pk=made.pk)
    assert touched(lambda: joined.get()) == {leaf_of(TODAY)}


def test_answers_are_looked_for_from_the_question_s_day_on(database):
    asked = Sent(uuid7_at(TODAY + timedelta(minutes=1), 1), uuid7(), 1)
    read = touched(lambda: list(responses_to(asked)))
    assert read
    assert min(read) == leaf_of(TODAY)


# -- prepared statements ------------------------------------------------------------------------------------
def prepared(query, types, *values):
    """Prepare a statement and return how to run it with these values as parameters."""
    rows_of = ", ".join(f"'{value}'" for value in values)
    with connection.cursor() as cursor:
        cursor.execute("DEALLOCATE ALL")
        cursor.execute(f"PREPARE looked ({types}) AS {query}")

    def run():
        with connection.cursor() as cursor:
            cursor.execute(f"EXECUTE looked ({rows_of})")

    return run


LOOK_UPS = {
    "id": ("SELECT * FROM messages.log WHERE message_id = $1", "uuid", [uuid7_floor(TODAY)]),
    "window": (
        "SELECT * FROM messages.log WHERE message_id >= $1 AND message_id < $2",
        "uuid, uuid",
        [uuid7_floor(TODAY), uuid7_floor(TODAY + timedelta(days=1))],
    ),
}


@pytest.mark.parametrize("mode", ["force_custom_plan", "force_generic_plan"])
@pytest.mark.parametrize("what", LOOK_UPS)
def test_with_parameters_one_partition_is_read_by_either_kind_of_plan(database, what, mode):
    query, types, values = LOOK_UPS[what]
    with connection.cursor() as cursor:
        cursor.execute(f"SET LOCAL plan_cache_mode = {mode}")
    assert touched(prepared(query, types, *values)) == {leaf_of(TODAY)}


@pytest.mark.parametrize("what", LOOK_UPS)
def test_postgresql_keeps_to_custom_plans_however_often_a_statement_runs(database, what):
    """A generic plan would lock all 400 partitions each time."""
    query, types, values = LOOK_UPS[what]
    run = prepared(query, types, *values)
    for _ in range(12):
        run()
    counted = rows("SELECT generic_plans, custom_plans FROM pg_prepared_statements WHERE name = 'looked'")
    assert counted == [(0, 12)]


# -- every time table, with the partitions that an installation has -----------------------------------------
@pytest.mark.django_db
@pytest.mark.parametrize("model", TIME_MODELS, ids=name_of)
def test_each_time_table_is_pruned_by_id_and_by_window(model):
    table = name_of(model)
    only = {leaf_of(TODAY, table)}
    assert touched(lambda: model.objects.filter(pk=uuid7_floor(TODAY)).first(), table) == only
    assert touched(lambda: list(model.objects.between(TODAY, TODAY + timedelta(days=1))), table) == only


@pytest.mark.django_db
def test_the_admin_s_time_filter_reads_neither_older_partitions_nor_those_made_ahead():
    request = RequestFactory().get("/", {"within": "24h"})
    request.user = None
    shown = TimeWindowFilter(request, {"within": ["24h"]}, Message, MessageAdmin(Message, admin.site))
    found = shown.queryset(request, Message.objects.all())
    possible = {
        leaf_of(TODAY + timedelta(days=days)) for days in (-1, 0, 1)
    }  # tomorrow's: five minutes before midnight
    read = touched(lambda: list(found))
    assert read <= possible
    assert leaf_of(TODAY) in read
