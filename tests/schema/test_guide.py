"""The guide's own names and calls, read from its text, against the migrated database."""

import re
import subprocess

import pytest

from cockpit.servers.postgres import wheel_folder
from tests.schema.catalog import ROOT, rows

GUIDE = (ROOT / "docs" / "spec" / "guide.sql").read_text("utf-8")
CALLS = ROOT / "docs" / "spec" / "guide-calls.sql"
# the guide's sketch in section 2 makes tables of the same names with other columns; section 9 has the real ones
REAL = GUIDE[GUIDE.index("-- ### 9.1") :]


def names(pattern, text=GUIDE):
    return sorted({match[1] for match in re.finditer(rf"^\s*CREATE (?:OR REPLACE )?{pattern}", text, re.M)})


def run_psql(database, *arguments):
    psql = wheel_folder() / "pginstall" / "bin" / "psql"
    return subprocess.run(
        [psql, "-X", "-q", "-v", "ON_ERROR_STOP=1", *arguments, database.url],
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_the_calls_are_the_guide_s_word_for_word():
    calls = re.findall(r"^SELECT partitions\.create_time_partition\(.*;$", GUIDE, re.M)
    assert len(calls) == 9
    lines = CALLS.read_text("utf-8").splitlines()
    assert all(call in lines for call in calls)


def test_the_calls_run_through_psql(own_database):
    done = run_psql(own_database, "-f", str(CALLS))
    assert done.returncode == 0, done.stderr
    assert "agents.lifecycle_events_" in done.stdout
    assert "tasks.executions_" in done.stdout
    assert "messages.log_" in done.stdout
    assert "(server)" in done.stdout


def test_the_calls_run_twice_and_make_nothing_new(own_database):
    count = "SELECT count(*) FROM partitions.ranges"
    assert run_psql(own_database, "-f", str(CALLS)).returncode == 0
    with own_database.connect() as connection:
        before = connection.execute(count).fetchone()
    assert run_psql(own_database, "-f", str(CALLS)).returncode == 0
    with own_database.connect() as connection:
        assert connection.execute(count).fetchone() == before


def test_a_task_can_be_enqueued_with_one_line_of_psql(own_database):
    done = run_psql(
        own_database, "-Atc", "INSERT INTO tasks.queue (task_type) VALUES ('echo') RETURNING status, priority"
    )
    assert (done.returncode, done.stdout.strip()) == (0, "queued|normal"), done.stderr


@pytest.mark.django_db
@pytest.mark.parametrize("name", names(r"SCHEMA IF NOT EXISTS (\w+)"))
def test_schema_of_the_guide_exists(name):
    assert rows("SELECT to_regnamespace(%s)", [name])[0][0]


@pytest.mark.django_db
@pytest.mark.parametrize("name", names(r"TABLE (?:IF NOT EXISTS )?([a-z]+\.\w+)"))
def test_table_of_the_guide_exists(name):
    assert rows("SELECT to_regclass(%s)", [name])[0][0]


@pytest.mark.django_db
@pytest.mark.parametrize("name", names(r"(?:TYPE|DOMAIN) (\w+)"))
def test_type_of_the_guide_exists(name):
    assert rows("SELECT to_regtype(%s)", [name])[0][0]


@pytest.mark.django_db
@pytest.mark.parametrize("name", names(r"TYPE (\w+) AS ENUM"))
def test_enum_of_the_guide_has_its_values_in_its_order(name):
    body = re.search(rf"CREATE TYPE {name} AS ENUM \((.*?)\);", GUIDE, re.S)[1]
    wanted = re.findall(r"'(\w+)'", body)
    found = rows("SELECT enumlabel FROM pg_enum WHERE enumtypid = %s::regtype ORDER BY enumsortorder", [name])
    assert [row[0] for row in found] == wanted


# named otherwise, or kept in another way: docs/schema.md says why
GONE_COLUMNS = {"sessions.active": {"session_token"}}


def columns_in_guide():
    for name, body in re.findall(
        r"^CREATE TABLE (?:IF NOT EXISTS )?(\w+\.\w+) \(\n(.*?)^\)", REAL, re.M | re.S
    ):
        columns = re.findall(r"^  ([a-z_]+) (?!KEY)[a-zA-Z]", body, re.M)
        yield pytest.param(name, [column for column in columns if column.islower()], id=name)


@pytest.mark.django_db
@pytest.mark.parametrize(("table", "columns"), list(columns_in_guide()))
def test_columns_of_the_guide_exist(table, columns):
    found = {
        row[0]
        for row in rows(
            "SELECT attname FROM pg_attribute WHERE attrelid = %s::regclass AND attnum > 0", [table]
        )
    }
    assert len(columns) > 3
    assert set(columns) - found == GONE_COLUMNS.get(table, set())


def constraints_in_guide():
    """Constraints that other tables took over under another name are listed in docs/schema.md."""
    tables = re.findall(r"^CREATE TABLE (?:IF NOT EXISTS )?(\w+\.\w+) \(\n(.*?)^\)", REAL, re.M | re.S)
    return [
        (table, name) for table, body in tables for name in re.findall(r"^  CONSTRAINT (\w+) ", body, re.M)
    ]


GONE_CONSTRAINTS = {
    ("sessions.active", "active_session"),  # would refuse to touch or restore an expired row: sessions.live
    ("sessions.active", "valid_session_token"),  # the token is not stored: sessions.open_session checks it
    ("knowledge.embeddings", "valid_embedding_model"),  # a foreign key to knowledge.models
}


@pytest.mark.django_db
@pytest.mark.parametrize(("table", "name"), constraints_in_guide())
def test_constraint_of_the_guide_exists(table, name):
    found = rows("SELECT 1 FROM pg_constraint WHERE conrelid = %s::regclass AND conname = %s", [table, name])
    assert bool(found) != ((table, name) in GONE_CONSTRAINTS)


def functions_in_guide():
    pattern = r"^CREATE (?:OR REPLACE )?FUNCTION ([\w.]+)\((.*?)\)\s*RETURNS (TABLE\s*\((.*?)\n?\) AS|\w+)"
    for name, arguments, _, table in re.findall(pattern, GUIDE, re.M | re.S):
        columns = re.findall(r"(\w+) [A-Z]+(?: WITH TIME ZONE)?(?:\[\])?", table)
        yield pytest.param(name, re.findall(r"(?:^|,)\s*(\w+) [A-Z]+", arguments), columns, id=name)


@pytest.mark.django_db
@pytest.mark.parametrize(("name", "arguments", "columns"), list(functions_in_guide()))
def test_function_of_the_guide_has_its_arguments_and_result_columns(name, arguments, columns):
    """More may follow: arguments with a default, result columns behind the guide's."""
    found = rows(
        "SELECT p.proargnames, p.proargmodes::text[], p.pronargs - p.pronargdefaults"
        " FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace"
        " WHERE p.proname = %s AND n.nspname = ANY (%s)",
        [name.split(".")[-1], [name.split(".")[0], "public", "agents"]],
    )
    assert len(found) == 1, f"{name} is not in the database"
    all_names, modes, required = found[0]
    modes = modes or ["i"] * len(all_names)
    inputs = [n for n, mode in zip(all_names, modes, strict=True) if mode == "i"]
    outputs = [n for n, mode in zip(all_names, modes, strict=True) if mode == "t"]
    assert inputs[: len(arguments)] == arguments
    assert required <= len(arguments)
    assert outputs[: len(columns)] == columns


@pytest.mark.django_db
@pytest.mark.parametrize("name", names(r"VIEW ([\w.]+)"))
def test_view_of_the_guide_has_its_columns(name):
    body = re.search(rf"VIEW {re.escape(name)} AS\nSELECT(.*?)\nFROM", GUIDE, re.S)[1]
    wanted = [line.strip().rstrip(",").split(" ")[-1] for line in body.splitlines() if line.strip()]
    found = rows(
        "SELECT attname FROM pg_attribute WHERE attrelid = %s::regclass AND attnum > 0 ORDER BY attnum",
        [name],
    )
    assert [row[0] for row in found][: len(wanted)] == wanted


def test_the_guide_is_read_in_full():
    """So that no test above passes because a pattern found nothing."""
    kinds = [
        r"SCHEMA IF NOT EXISTS (\w+)",
        r"TABLE (?:IF NOT EXISTS )?([a-z]+\.\w+)",
        r"(?:TYPE|DOMAIN) (\w+)",
    ]
    assert [len(names(kind)) for kind in kinds] == [5, 22, 7]
    assert len(functions_in_guide_list := list(functions_in_guide())) == 11, functions_in_guide_list
    assert len(list(columns_in_guide())) == 14
    assert len(constraints_in_guide()) == 34
