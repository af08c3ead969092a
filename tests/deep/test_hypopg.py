"""Suggested indexes are tried out by hypopg where the server has it: Debian's PostgreSQL 15."""

from pathlib import Path

import psycopg
import pytest

from cockpit.servers import Running
from pg.operations import read_sql
from tests.versions import has_programs, make_server

CONTROL = Path("/usr/share/postgresql/15/extension/hypopg.control")
pytestmark = [
    pytest.mark.deep,
    pytest.mark.skipif(
        not (has_programs(15) and CONTROL.exists()), reason="no hypopg: apt-get install postgresql-15-hypopg"
    ),
]


@pytest.fixture(scope="module")
def session(make_home):
    with (
        Running(make_server(15, make_home())) as running,
        psycopg.connect(running.server.url(), autocommit=True) as session,
    ):
        session.execute("CREATE SCHEMA monitoring")
        for name in ("0001_statistics", "0006_hypothetical"):
            session.execute(read_sql("monitoring", name))
        session.execute(
            "CREATE TABLE big AS SELECT g AS id, md5(g::text) AS email FROM generate_series(1, 20000) g"
        )
        session.execute("ANALYZE big")
        for _ in range(3):
            session.execute("SELECT count(*) FROM big WHERE email = 'nobody'")
        session.execute("SELECT pg_stat_force_next_flush()")
        yield session


def suggested(session):
    return session.execute("SELECT estimated_benefit FROM monitoring.suggest_missing_indexes()").fetchall()


def test_without_hypopg_a_suggestion_is_a_guess(session):
    ((benefit,),) = suggested(session)
    assert benefit.startswith("High")
    assert "hypopg" not in benefit


def test_with_it_the_planner_says_what_a_look_up_would_cost_and_nothing_is_left_behind(session):
    session.execute("CREATE EXTENSION hypopg")
    ((benefit,),) = suggested(session)
    _, _, told = benefit.partition("hypopg: a look-up costs ")
    after, _, before = told.partition(" instead of ")
    assert float(after) * 10 < float(before)
    assert session.execute("SELECT count(*) FROM hypopg_list_indexes").fetchone() == (0,)


def test_an_index_that_the_planner_would_not_use_is_told(session):
    session.execute("CREATE TABLE same AS SELECT 1 AS one FROM generate_series(1, 20000)")
    session.execute("ANALYZE same")
    told = session.execute("SELECT monitoring.try_index('same', 'one')").fetchone()[0]
    assert told == "hypopg: the planner would not use it"


def test_a_partitioned_table_is_not_tried(session):
    session.execute("CREATE TABLE parts (id int) PARTITION BY HASH (id)")
    session.execute("CREATE TABLE parts_0 PARTITION OF parts FOR VALUES WITH (MODULUS 1, REMAINDER 0)")
    session.execute("INSERT INTO parts SELECT generate_series(1, 100)")
    session.execute("SELECT monitoring.try_index('parts', 'id')")  # whatever it can: no error
