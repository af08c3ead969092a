"""The guide's monitoring view and functions on a database of their own."""

import pytest
from django.db import connection as django_connection


@pytest.fixture
def database(own_database):
    """A database of its own and a connection to it: statistics are counted per database, and at commit."""
    with own_database.connect() as connection:
        yield own_database, connection


@pytest.fixture
def here(db):
    """psycopg's connection in the test's transaction."""
    django_connection.ensure_connection()
    return django_connection.connection


def rows_by(connection, key, query):
    cursor = connection.execute(query)
    names = [column.name for column in cursor.description]
    return {row[names.index(key)]: dict(zip(names, row, strict=True)) for row in cursor.fetchall()}


def pools(connection):
    return rows_by(connection, "pool_name", "SELECT * FROM monitoring.check_connection_pool_health()")


def test_the_oldest_connection_is_older_than_the_newest(database):
    own, connection = database
    with own.connect(application_name="web"), own.connect(application_name="web"):
        stats = rows_by(connection, "application_name", "SELECT * FROM monitoring.connection_stats")["web"]
    assert stats["connection_count"] == 2
    assert stats["oldest_connection"] < stats["newest_connection"]


def test_each_application_is_a_pool_and_the_server_comes_first(database):
    own, connection = database
    with own.connect(application_name="celery") as worker, own.connect(application_name="web"):
        worker.execute("BEGIN")
        found = pools(connection)
        worker.execute("ROLLBACK")
    assert next(iter(found)) == "(server)"
    assert found["celery"]["idle_in_transaction"] == 1
    assert (found["web"]["total_connections"], found["web"]["idle_connections"]) == (1, 1)
    assert found["(server)"]["total_connections"] >= 3
    assert found["(server)"]["max_connections"] == found["web"]["max_connections"]


def test_an_aborted_transaction_is_an_open_one(database):
    own, connection = database
    with own.connect(application_name="celery") as worker:
        worker.execute("BEGIN")
        with pytest.raises(Exception, match="division by zero"):
            worker.execute("SELECT 1 / 0")
        assert pools(connection)["celery"]["idle_in_transaction"] == 1
        worker.execute("ROLLBACK")


def test_who_asks_is_no_load(database):
    _, connection = database
    connection.execute("SET application_name = 'asker'")
    found = pools(connection)
    assert "asker" not in found
    assert found["(server)"]["active_connections"] == 0 or found["(server)"]["health_status"] == "healthy"


def usage(connection):
    return rows_by(connection, "index_name", "SELECT * FROM monitoring.analyze_index_usage()")


def test_indexes_of_partitions_are_added_up(here):
    found = usage(here)
    assert found["state_pkey"]["table_name"] == "state"
    assert not [name for name in found if name.startswith("state_0_")]


@pytest.mark.parametrize(
    ("statement", "index", "advice"),
    [
        (
            "CREATE INDEX twice ON agents.registry (agent_type)",
            "twice",
            "covered by idx_agents_registry_type_status",
        ),
        ("CREATE INDEX other ON agents.registry (agent_name)", "other", "Consider dropping"),
        ("CREATE INDEX part ON agents.registry (agent_type) WHERE epoch > 1", "part", "Consider dropping"),
        ("SELECT 1", "registry_pkey", "Keep - enforces uniqueness"),
        (
            "CREATE TABLE public.child (parent uuid REFERENCES agents.registry);"
            " CREATE INDEX child_parent ON public.child (parent)",
            "child_parent",
            "Keep - serves foreign key",
        ),
    ],
)
def test_advice_names_the_reason(here, statement, index, advice):
    here.execute(statement)
    assert advice in usage(here)[index]["recommendation"]


def test_the_schema_has_no_redundant_index(here):
    redundant = {
        name: row["recommendation"]
        for name, row in usage(here).items()
        if row["schema_name"] != "public" and row["recommendation"].startswith("Redundant")
    }
    assert not redundant


def test_an_index_is_suggested_for_the_column_that_is_searched(database):
    _, connection = database
    connection.execute(
        "CREATE TABLE public.big AS"
        " SELECT g AS id, md5(g::text) AS email, g % 3 AS flag FROM generate_series(1, 20000) g"
    )
    connection.execute("CREATE INDEX ON public.big (id)")
    connection.execute("ANALYZE public.big")
    for condition in ("email = 'nobody'", "flag = 7", "id = 3"):
        connection.execute(f"SELECT count(*) FROM public.big WHERE {condition}")
    connection.execute("SELECT pg_stat_force_next_flush()")
    found = rows_by(connection, "suggested_index", "SELECT * FROM monitoring.suggest_missing_indexes()")
    assert list(found) == ["CREATE INDEX CONCURRENTLY ON public.big (email);"]
    assert found[next(iter(found))]["estimated_benefit"].startswith("High")


def test_without_pg_stat_statements_nothing_is_suggested_and_a_notice_says_why(database):
    _, connection = database
    notices = []
    connection.add_notice_handler(lambda notice: notices.append(notice.message_primary))
    connection.execute("DROP EXTENSION pg_stat_statements")
    assert connection.execute("SELECT * FROM monitoring.suggest_missing_indexes()").fetchall() == []
    assert "not installed" in notices[0]
