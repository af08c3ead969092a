"""Each natively partitioned table against the `partitioning` that its model declares."""

from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest

from partitions.operations import STRATEGIES
from tests.schema.catalog import name_of, our_schemas, room_models, rows

pytestmark = pytest.mark.django_db
DECLARED = {name_of(model): model.partitioning for model in room_models() if hasattr(model, "partitioning")}


def names_with(strategy):
    return sorted(name for name, declared in DECLARED.items() if declared.strategy == strategy)


def leaves_of(table):
    return rows(
        "SELECT c.relname, pg_get_expr(c.relpartbound, c.oid) FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid"
        " WHERE i.inhparent = to_regclass(%s) ORDER BY c.relname",
        [table],
    )


def test_partitioned_tables_are_the_declared_ones():
    found = rows(
        """
        SELECT n.nspname || '.' || c.relname, t.partstrat, array_agg(a.attname::text)
        FROM pg_partitioned_table t
        JOIN pg_class c ON c.oid = t.partrelid JOIN pg_namespace n ON n.oid = c.relnamespace
        JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = ANY (t.partattrs::int2[])
        WHERE n.nspname = ANY (%s) AND NOT c.relispartition AND c.relkind = 'p'
        GROUP BY 1, 2
        """,
        [our_schemas()],
    )
    in_catalog = {name: (STRATEGIES[strategy], tuple(keys)) for name, strategy, keys in found}
    declared = {name: (how.strategy, (how.key,)) for name, how in DECLARED.items()}
    assert in_catalog == declared, (
        "give the model of each partitioned table a `partitioning` (partitions.declare)"
    )


@pytest.mark.parametrize("table", names_with("hash"))
def test_hash_tables_have_every_remainder_once(table):
    modulus = DECLARED[table].modulus
    bounds = [bound for _, bound in leaves_of(table)]
    assert sorted(bounds) == sorted(
        f"FOR VALUES WITH (modulus {modulus}, remainder {remainder})" for remainder in range(modulus)
    )


@pytest.mark.parametrize("table", names_with("list"))
def test_list_tables_have_one_leaf_per_value(table):
    bounds = [bound for _, bound in leaves_of(table)]
    assert bounds
    assert len(set(bounds)) == len(bounds)


def test_the_queue_takes_types_that_nobody_registered():
    assert ("queue_default", "DEFAULT") in leaves_of("tasks.queue")


def ranges_of(table):
    schema, name = table.split(".")
    return rows(
        "SELECT lower_time, upper_time, is_default, detach_pending FROM partitions.ranges"
        " WHERE schema_name = %s AND parent_name = %s ORDER BY lower_time",
        [schema, name],
    )


@pytest.mark.parametrize("table", names_with("range"))
def test_time_tables_are_covered_day_by_day_without_a_gap(table):
    ranges = ranges_of(table)
    today = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    assert ranges[0][0] <= today - timedelta(days=1)
    assert ranges[-1][1] >= today + timedelta(days=14)
    for lower, upper, *_ in ranges:
        assert upper - lower == timedelta(days=1)
        assert lower == lower.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    assert all(earlier[1] == later[0] for earlier, later in pairwise(ranges))


@pytest.mark.parametrize("table", names_with("range"))
def test_time_tables_have_no_default_partition(table):
    """One would make PostgreSQL refuse DETACH CONCURRENTLY, and rows in it would block new partitions."""
    assert not any(is_default or pending for _, _, is_default, pending in ranges_of(table))


def test_every_time_table_has_a_policy():
    policies = [row[0] for row in rows("SELECT table_name FROM partitions.policies ORDER BY 1")]
    assert policies == names_with("range"), "declare how it is kept on the model: partitioning = by_time(...)"


def test_leaves_of_the_queue_have_the_statement_triggers_of_the_queue():
    """A parent's statement triggers do not fire for DML on a leaf, which workers use."""
    found = rows(
        """
        SELECT c.relname, array_agg(t.tgname::text ORDER BY t.tgname) FILTER (WHERE t.tgname IS NOT NULL)
        FROM pg_class c
        LEFT JOIN pg_trigger t ON t.tgrelid = c.oid AND NOT t.tgisinternal AND (t.tgtype & 1) = 0
        WHERE c.oid = 'tasks.queue'::regclass
           OR c.oid IN (SELECT inhrelid FROM pg_inherits WHERE inhparent = 'tasks.queue'::regclass)
        GROUP BY c.relname
        """
    )
    triggers = dict(found)
    assert triggers["queue"]
    assert all(names == triggers["queue"] for names in triggers.values()), triggers


def test_a_new_leaf_of_the_queue_has_them_too():
    rows("SELECT partitions.create_task_type_partition('schema test')")
    test_leaves_of_the_queue_have_the_statement_triggers_of_the_queue()


@pytest.mark.parametrize("table", sorted(DECLARED))
def test_leaves_have_the_row_triggers_and_constraints_of_their_table(table):
    """ATTACH and LIKE copy them; a leaf made by hand would lack some."""
    missing = rows(
        """
        SELECT l.relid::regclass::text, t.tgname FROM pg_partition_tree(to_regclass(%s)) l
        JOIN pg_trigger t ON t.tgrelid = to_regclass(%s) AND NOT t.tgisinternal AND (t.tgtype & 1) = 1
        WHERE l.isleaf
          AND NOT EXISTS (SELECT FROM pg_trigger x WHERE x.tgrelid = l.relid AND x.tgname = t.tgname)
        UNION ALL
        SELECT l.relid::regclass::text, k.conname FROM pg_partition_tree(to_regclass(%s)) l
        JOIN pg_constraint k ON k.conrelid = to_regclass(%s) AND k.contype = 'c'
        WHERE l.isleaf AND NOT EXISTS (
          SELECT FROM pg_constraint x WHERE x.conrelid = l.relid AND x.contype = 'c' AND x.conname = k.conname)
        """,
        [table] * 4,
    )
    assert not missing
