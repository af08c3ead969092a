"""What is read from a database, and how two readings are compared."""

import pytest
from django.conf import settings
from django.db import connection

from recovery.contents import (
    Contents,
    Leaf,
    compare,
    compare_parents,
    count_through_parents,
    list_tables,
    read_contents,
    summarise,
)

ONE = Leaf("", 2, "17")


def contents(objects=("view v",), **leaves):
    return Contents(
        {"s.t": {"s.t": ONE}, **{f"s.{name}": found for name, found in leaves.items()}}, list(objects)
    )


@pytest.mark.parametrize(
    ("found", "problem"),
    [
        (Contents({}, ["view v"]), "table s.t is missing"),
        (contents(other={}), "table s.other is extra"),
        (Contents({"s.t": {"s.t": Leaf("", 1, "17")}}, ["view v"]), "table s.t has 1 rows, not 2"),
        (Contents({"s.t": {"s.t": Leaf("", 2, "18")}}, ["view v"]), "table s.t has other values"),
        (Contents({"s.t": {"s.t": Leaf("DEFAULT", 2, "17")}}, ["view v"]), "table s.t is for DEFAULT"),
        (Contents({"s.t": {"s.t": ONE, "s.p": ONE}}, ["view v"]), "partition s.p of s.t is extra"),
        (Contents({"s.t": {}}, ["view v"]), "partition s.t of s.t is missing"),
        (contents(objects=()), "view v is missing"),
        (contents(objects=("index i", "view v")), "index i is extra"),
    ],
)
def test_a_difference_is_named(found, problem):
    [told] = compare(contents(), found)
    assert told.startswith(problem)


def test_equal_contents_have_no_difference_also_through_json():
    assert compare(contents(), Contents.from_json(contents().to_json())) == []


def test_rows_that_do_not_show_through_their_table_are_named():
    assert compare_parents(contents(), {"s.t": 1}) == ["table s.t shows 1 rows, its partitions have 2"]


def test_many_problems_are_told_in_few_words():
    told = summarise([f"problem {number}" for number in range(25)])
    assert told.startswith("problem 0; ")
    assert told.endswith("problem 19; and 5 more")


# -- reading ------------------------------------------------------------------------------------------------
@pytest.fixture
def session(db):
    connection.ensure_connection()
    return connection.connection


def read(session):
    return read_contents(session, list_tables(session))


def test_the_checksum_does_not_depend_on_the_order_but_on_every_value(session):
    session.execute("CREATE TABLE public.a (n int, counted text)")
    session.execute("INSERT INTO public.a VALUES (1, 'x'), (2, NULL), (3, '')")
    before = read(session).tables["public.a"]
    session.execute(
        "UPDATE public.a SET n = n; DELETE FROM public.a WHERE n = 1; INSERT INTO public.a VALUES (1, 'x')"
    )
    assert read(session).tables["public.a"] == before
    session.execute("UPDATE public.a SET counted = '' WHERE n = 2")
    assert read(session).tables["public.a"] != before


def test_a_table_is_told_from_its_partitions_and_temporary_ones_are_left_out(session):
    session.execute("CREATE TEMPORARY TABLE passing (n int)")
    found = read(session).tables
    assert not any(name.endswith("passing") for name in found)
    assert list(found["agents.registry"]) == ["agents.registry"]
    assert len(found["agents.state"]) == 8
    assert "tasks.queue_default" in found["tasks.queue"]
    assert "tasks.queue_default" not in found
    assert found["tasks.queue"]["tasks.queue_default"].bound == "DEFAULT"


def test_old_style_children_are_tables_of_their_own(session):
    session.execute("CREATE TABLE public.a (n int); CREATE TABLE public.b () INHERITS (public.a)")
    session.execute("INSERT INTO public.b VALUES (1)")
    counts = read(session).row_counts
    assert (counts["public.a"], counts["public.b"]) == (0, 1)


def test_partitions_of_partitions_are_counted_once(session):
    session.execute(
        "CREATE TABLE public.p (a int, b int) PARTITION BY LIST (a);"
        "CREATE TABLE public.p1 PARTITION OF public.p FOR VALUES IN (1) PARTITION BY LIST (b);"
        "CREATE TABLE public.p12 PARTITION OF public.p1 FOR VALUES IN (2);"
        "INSERT INTO public.p VALUES (1, 2)"
    )
    refs = list_tables(session)
    found = read_contents(session, refs)
    assert list(found.tables["public.p"]) == ["public.p12"]
    assert found.row_counts["public.p"] == 1
    assert count_through_parents(session, refs)["public.p"] == 1


def test_other_objects_are_named_and_extensions_left_out(session):
    found = set(read(session).objects)
    assert {
        "schema agents",
        *(["extension vector"] if settings.KNOWLEDGE else []),
        "view recovery.consistency_rules",
        "index agents.idx_agents_registry_parent",
        "constraint tasks.queue.valid_status_timing",
        "function partitions.uuid7()",
        "type public.agent_status_type",
        "column agents.registry.agent_name character varying(255) not null",
    } <= found
    assert not any("halfvec_" in name for name in found)
