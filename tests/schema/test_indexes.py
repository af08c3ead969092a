"""docs/indexes.md against the guide's text, the catalog, and the plans of the queries that the indexes are for."""

import re
from pathlib import Path

import pytest
from django.db import connections

from tests.conftest import WORKER, use_database
from tests.schema.catalog import ROOT, rows
from tests.schema.index_queries import CASES, read_sample
from tests.schema.plans import roots_of_indexes, watched_plans

pytestmark = pytest.mark.django_db
PAGE = (ROOT / "docs" / "indexes.md").read_text("utf-8")
GUIDE = (ROOT / "docs" / "spec" / "guide.sql").read_text("utf-8")
FATES = {"kept", "changed", "served", "refused"}
GUIDE_SCHEMAS = ["agents", "tasks", "messages", "sessions", "knowledge"]


def table_rows(heading):
    """Return the cells of the table below `## <heading>`."""
    section = re.search(rf"^## {heading}$(.*?)(?=^## |\Z)", PAGE, re.M | re.S)
    lines = [line for line in section.group(1).splitlines() if line.startswith("| `")]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]


FATE_OF = {cells[0].strip("`"): cells[1:] for cells in table_rows("The guide's 65")}
OURS = {cells[0].strip("`"): cells[1] for cells in table_rows("Ours")}


@pytest.fixture
def catalog():
    """Each index as declared (leaves' own left out) with its table and definition."""
    found = rows(
        """
        SELECT i.relname, n.nspname || '.' || t.relname, pg_get_indexdef(i.oid),
               EXISTS (SELECT FROM pg_constraint k WHERE k.conindid = i.oid AND k.contype IN ('p', 'u', 'x')),
               x.indisunique
        FROM pg_index x
        JOIN pg_class i ON i.oid = x.indexrelid
        JOIN pg_class t ON t.oid = x.indrelid
        JOIN pg_namespace n ON n.oid = t.relnamespace
        WHERE n.nspname = ANY (%s) AND NOT t.relispartition
        """,
        [GUIDE_SCHEMAS],
    )
    return {row[0]: row[1:] for row in found}


def columns_in(definition):
    """'(a, b) WHERE c' of an index definition, without blanks and without PostgreSQL's own parentheses."""
    text = re.sub(r"::\w+(\.\w+)?", "", definition.partition(" USING ")[2] or definition)
    return re.sub(r"[\s()]|^btree|^gin", "", text).lower()


def test_every_index_of_the_guide_has_a_fate():
    in_guide = [
        match[1]
        for match in re.finditer(r"^CREATE INDEX (\w+)", GUIDE, re.M)
        if match[1] != "idx_missing_example"
    ]
    assert len(in_guide) == 65
    assert list(FATE_OF) == in_guide, "docs/indexes.md names them in the guide's order, each once"
    assert {cells[1] for cells in FATE_OF.values()} <= FATES
    assert all(cells[2] for cells in FATE_OF.values()), "say what serves it, or why not"


@pytest.mark.parametrize("name", [name for name, cells in FATE_OF.items() if cells[1] in ("kept", "changed")])
def test_an_index_that_stays_is_on_its_table(name, catalog):
    assert name in catalog, f"docs/indexes.md says that {name} exists"
    assert catalog[name][0] == FATE_OF[name][0]


@pytest.mark.parametrize("name", [name for name, cells in FATE_OF.items() if cells[1] == "kept"])
def test_a_kept_index_is_the_guide_s(name, catalog):
    text = re.search(rf"^CREATE INDEX {name} ON (.*?);", GUIDE, re.M | re.S)[1]
    wanted = re.sub(r"^[\w.]+\s*|using gin", "", text, flags=re.I)
    assert columns_in(catalog[name][1]) == columns_in(wanted), (
        "docs/indexes.md: this one is changed, not kept"
    )


@pytest.mark.parametrize("name", [name for name, cells in FATE_OF.items() if cells[1] == "changed"])
def test_a_changed_index_is_not_the_guide_s(name, catalog):
    text = re.search(rf"^CREATE INDEX {name} ON (.*?);", GUIDE, re.M | re.S)[1]
    wanted = re.sub(r"^[\w.]+\s*|using gin", "", text, flags=re.I)
    assert columns_in(catalog[name][1]) != columns_in(wanted), (
        "docs/indexes.md: this one is kept, not changed"
    )


@pytest.mark.parametrize(
    "name", [name for name, cells in FATE_OF.items() if cells[1] in ("served", "refused")]
)
def test_an_index_that_went_is_gone_and_its_servant_is_there(name, catalog):
    table, fate, why = FATE_OF[name]
    assert name not in catalog, f"docs/indexes.md says {fate}"
    named = set(re.findall(r"`(\w+_(?:pkey|key)|idx_\w+|one_\w+)`", why)) - set(FATE_OF)
    for other in named | {
        n for n in re.findall(r"`(idx_\w+)`", why) if FATE_OF.get(n, "__")[1] in ("kept", "changed")
    }:
        assert other in catalog, f"{other}, which is to serve {name}, does not exist"
        assert catalog[other][0] == table


def test_every_other_index_is_listed_with_what_it_serves(catalog):
    plain = {name for name, (_, _, is_constraint, _) in catalog.items() if not is_constraint}
    listed = set(OURS) | {name for name, cells in FATE_OF.items() if cells[1] in ("kept", "changed")}
    assert plain == listed, "list each index in docs/indexes.md with the query that it serves"
    assert all(catalog[name][0] == table for name, table in OURS.items())


def test_no_vector_partition_has_its_index_before_its_load():
    """It is built when the load is done: knowledge/vector_index.py."""
    found = rows(
        """
        SELECT i.relname FROM pg_partition_tree('knowledge.embeddings') l
        JOIN pg_index x ON x.indrelid = l.relid JOIN pg_class i ON i.oid = x.indexrelid JOIN pg_am a ON a.oid = i.relam
        WHERE a.amname = 'hnsw'
        """
    )
    assert not found


# -- the queries --------------------------------------------------------------------------------------------
ROWS = 200_000
SERVED = {index for case in CASES for index in case.indexes}


def test_every_index_has_a_query_of_the_code_that_needs_it(catalog):
    """A unique index is there for its rule, which tests/schema/test_constraints.py trips."""
    wanted = {
        name for name, (_, _, is_constraint, is_unique) in catalog.items() if not is_constraint | is_unique
    }
    assert wanted <= SERVED, "add a case to tests/schema/index_queries.py, or drop the index by a migration"
    assert set(catalog) >= SERVED


@pytest.fixture(scope="module")
def filled(clones, django_db_setup, django_db_blocker):
    """All aliases use a database with 200,000 analyzed rows in each table concerned. Takes about a minute."""
    ours = connections["default"].settings_dict["NAME"]
    with django_db_blocker.unblock():
        database = clones.create(f"filled_{WORKER}")
        with database.connect() as connection:
            connection.execute((Path(__file__).parent / "filled.sql").read_text("utf-8"))
            connection.execute("ANALYZE")
        use_database(database.name)
        yield read_sample()
        use_database(ours)
        clones.drop(database.name)


@pytest.mark.deep
def test_the_tables_are_large_and_analyzed_and_the_planner_is_as_shipped(filled, catalog):
    tables = {catalog[index][0] for index in SERVED}
    counted = rows(
        """
        SELECT name, sum(c.reltuples)::bigint FROM unnest(%s::text[]) name
        CROSS JOIN LATERAL (SELECT name::regclass AS relid UNION SELECT relid FROM pg_partition_tree(name)) l
        JOIN pg_class c ON c.oid = l.relid AND c.relkind = 'r' GROUP BY 1
        """,
        [sorted(tables)],
    )
    assert {name for name, number in counted if number >= ROWS} == tables, counted
    changed = rows(
        "SELECT name, setting FROM pg_settings WHERE category LIKE 'Query Tuning%%' AND setting <> boot_val"
    )
    assert not changed


@pytest.mark.deep
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_planner_uses_the_index(filled, case):
    with watched_plans() as plans:
        case.run(filled)
    roots = roots_of_indexes()
    used = {roots[index] for plan in plans for index in plan.indexes()}
    assert set(case.indexes) <= used, f"used instead: {sorted(used)}; see docs/indexes.md"
