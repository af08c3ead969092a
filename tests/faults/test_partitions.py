"""Upkeep of partitions, cut off, doubled, blocked and misled: the next run finishes, and no row is lost."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.databases import Database
from tests.faults.installation import ROOT
from tests.partitions.test_list_leaves import Crowd
from tests.partitions.world import (
    ALL_ROWS,
    STEPS,
    TABLES,
    make,
    make_world,
    midnight,
    rows_anywhere,
    strangers,
)
from tests.tasks.conftest import eventually

# does what `partitions apply` does, and dies before the step, or the statement, of that number
DYING = """
import os, signal, sys
import django
django.setup()
from django.db import connection
from partitions import maintenance
what, left, tables = sys.argv[1], int(sys.argv[2]), sys.argv[3:]
def die_at_last():
    global left
    left -= 1
    if left < 0:
        os.kill(os.getpid(), signal.SIGKILL)
def step(*arguments, real=maintenance.execute):
    die_at_last()
    return real(*arguments)
def statement(execute, *arguments):
    die_at_last()
    return execute(*arguments)
if what == "step":
    maintenance.execute = step
    maintenance.apply_all(tables=tables)
else:
    with connection.execute_wrapper(statement):
        maintenance.apply_all(tables=tables)
"""


class World:
    """A database in disorder, and processes that put it in order."""

    def __init__(self, database: Database, folder: Path) -> None:
        self.database = database
        self.environ = {
            **os.environ,
            **database.environ,
            "DJANGO_SETTINGS_MODULE": "config.settings",
            "MISTERSMITH_PARTITIONS_ARCHIVE_DIR": str(folder),
            "MISTERSMITH_PARTITIONS_LOCK_TIMEOUT_MS": "200",
        }
        self.folder = folder

    def run(self, *argv: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, *argv]
        return subprocess.run(
            command, cwd=ROOT, env=self.environ, capture_output=True, text=True, check=False
        )

    def start(self, *argv: str) -> subprocess.Popen[bytes]:
        quiet = subprocess.DEVNULL
        return subprocess.Popen(
            [sys.executable, *argv], cwd=ROOT, env=self.environ, stdout=quiet, stderr=quiet
        )

    def partitions(self, *arguments: str) -> dict[str, Any]:
        done = self.run("manage.py", "partitions", *arguments, "--json")
        assert done.stdout, done.stderr[-2000:]
        answer: dict[str, Any] = json.loads(done.stdout)
        return answer

    def put_in_order(self, faults: Any) -> None:
        """One more run, and everything is as if nothing had happened."""
        answer = self.partitions("apply", *TABLES)
        assert answer["ok"], answer["warnings"]
        faults.did(runs_that_finished=1)
        self.check(faults)

    def check(self, faults: Any) -> None:
        planned = self.partitions("plan", *TABLES)
        with self.database.connect() as session:
            faults.wrong(
                steps_left=len(planned["steps"]),
                rows_lost_or_doubled=abs(ALL_ROWS - rows_anywhere(session)),
                marks_left=count(session, "partitions.marks"),
                strangers_dropped=2 - strangers(session),
                half_archives=count(session, "partitions.archives WHERE state = 'writing'"),
                half_files=len(list(self.folder.rglob("*.part"))),
                runs_left_running=count(session, "partitions.runs WHERE status = 'running'"),
            )


def count(session: psycopg.Connection[Any], what: str) -> int:
    return int(session.execute(f"SELECT count(*) FROM {what}").fetchone()[0])  # type: ignore[index]


@pytest.fixture
def world(own_database, own_home) -> World:
    with own_database.connect() as session:
        make_world(session, own_database.dsn)
    return World(own_database, own_home / "archive")


# 0 is before the first step; the others run with `make faults`
ALWAYS = 7


@pytest.mark.parametrize(
    "steps", [n if n == ALWAYS else pytest.param(n, marks=pytest.mark.deep) for n in range(STEPS)]
)
def test_an_applier_killed_between_two_steps_is_followed_by_one_that_finishes(world, faults, steps):
    died = world.run("-c", DYING, "step", str(steps), *TABLES)
    assert died.returncode == -9, died.stderr[-2000:]
    faults.happened("applier killed")
    world.put_in_order(faults)
    with world.database.connect() as session:
        assert count(session, "partitions.runs WHERE status = 'interrupted'") == 1


@pytest.mark.deep
@pytest.mark.parametrize("statements", range(5, 149, 6))
def test_an_applier_killed_within_a_step_is_followed_by_one_that_finishes(world, faults, statements):
    died = world.run("-c", DYING, "statement", str(statements), *TABLES)
    assert died.returncode == -9, f"a run has fewer statements now: shorten the range {died.stderr[-2000:]}"
    faults.happened("applier killed")
    world.put_in_order(faults)


def test_two_appliers_at_once_do_each_step_once(world, faults):
    both = [world.start("manage.py", "partitions", "apply", *TABLES) for _ in range(2)]
    codes = [process.wait(120) for process in both]
    faults.happened("second applier beside the first")
    with world.database.connect() as session:
        done = session.execute(
            "SELECT step ->> 'action', step ->> 'object', count(*)"
            " FROM partitions.runs, jsonb_array_elements(steps) step WHERE step ->> 'status' = 'done' GROUP BY 1, 2"
        ).fetchall()
    faults.did(steps=len(done))
    faults.wrong(failed=sum(code != 0 for code in codes), done_twice=sum(row[2] > 1 for row in done))
    rest = world.partitions("apply", *TABLES)
    assert rest["ok"], rest["warnings"]
    world.check(faults)


def test_a_long_running_reader_delays_its_own_partition_only(world, faults):
    expired = f"app.events_{midnight(-9):%Y_%m_%d}"
    with world.database.connect() as reader:
        reader.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
        reader.execute(f"SELECT count(*) FROM {expired}")
        answer = world.run("-c", IMPATIENT, *TABLES)
        assert answer.returncode == 0, answer.stderr[-2000:]
        outcomes = json.loads(answer.stdout.splitlines()[-1])
        failed = {name for _, name, error in outcomes if error}
        faults.happened("reader in the way")
        faults.did(steps_beside_it=sum(error is None for _, _, error in outcomes))
        faults.wrong(others_failed=len(failed - {expired, f"app.events_{midnight(-8):%Y_%m_%d}"}))
        assert expired in failed
        with world.database.connect() as other:
            other.execute("INSERT INTO app.events (note) VALUES ('writers go on')")
            other.execute("DELETE FROM app.events WHERE note = 'writers go on'")
        reader.execute("COMMIT")
    world.put_in_order(faults)


IMPATIENT = """
import json, sys
import django
django.setup()
from partitions import locks, maintenance
locks.PATIENCE_SECONDS = 0
outcomes = maintenance.apply_all(tables=sys.argv[1:])
print(json.dumps([(one.step.action, one.step.partition, one.error) for one in outcomes]))
"""


def test_writers_and_readers_go_on_at_full_speed_through_upkeep(world, faults):
    written: list[int] = []

    def write(session: psycopg.Connection[Any]) -> None:
        session.execute("INSERT INTO app.events (source_id, note) SELECT 1, 'new' FROM generate_series(1, 5)")
        session.execute("UPDATE app.sources SET source_id = source_id WHERE source_id = 1")
        written.append(5)

    def read(session: psycopg.Connection[Any]) -> None:
        session.execute(
            "SELECT count(*) FROM app.events WHERE event_id >= partitions.uuid7_floor(now() - interval '1 day')"
        )

    crowd = Crowd(world.database.dsn)
    for work in (write, write, read):
        crowd.add(work)
    eventually(lambda: len(written) > 10 or crowd.errors)
    answer = world.partitions("apply", *TABLES)
    assert answer["ok"], answer["warnings"]
    seen = len(written)
    eventually(lambda: len(written) > seen + 10 or crowd.errors)
    crowd.end()
    faults.happened("DDL beside writers", len(answer["steps"]))
    faults.did(rows_written=sum(written), steps=len(answer["steps"]))
    with world.database.connect() as session:
        rows = rows_anywhere(session) - sum(written)
    faults.wrong(
        errors=len(crowd.errors),
        rows_lost=ALL_ROWS - rows,
        steps_left=len(world.partitions("plan", *TABLES)["steps"]),
    )


@pytest.mark.parametrize("wrong_by_days", [1, pytest.param(-1, marks=pytest.mark.deep)])
def test_a_clock_that_is_a_day_wrong_drops_nothing_too_early(world, faults, wrong_by_days):
    with world.database.connect() as session:
        youngest = make(session, "app.events", -6), make(session, "app.events", -5)
    done = world.run("-c", WRONG_CLOCK, str(wrong_by_days), *TABLES)
    assert done.returncode == 0, done.stderr[-2000:]
    faults.happened("clock wrong by a day")
    with world.database.connect() as session:
        kept = [
            session.execute("SELECT to_regclass(%s) IS NOT NULL", [name]).fetchone()[0] for name in youngest
        ]
        days = session.execute(
            "SELECT count(*) FROM partitions.ranges WHERE parent_name = 'events' AND lower_time = ANY(%s)",
            [[midnight(n) for n in range(3)]],
        ).fetchone()[0]
    faults.did(runs=1)
    # -6 is out of retention by the right clock: a slow clock may keep it, no clock may take -5
    faults.wrong(dropped_too_early=0 if kept[1] else 1, days_ahead_missing=3 - days)
    assert kept[0] == (wrong_by_days < 0)
    assert world.partitions("apply", *TABLES)["ok"]
    world.check(faults)


WRONG_CLOCK = """
import sys
from datetime import timedelta
import django
django.setup()
from django.utils import timezone
from partitions import catalog, maintenance
class Wrong:
    now = staticmethod(lambda: timezone.now() + timedelta(days=int(sys.argv[1])))
catalog.timezone = Wrong
outcomes = maintenance.apply_all(tables=sys.argv[2:])
assert not [one.error for one in outcomes if one.error], [one.error for one in outcomes]
"""


FAR_ZONES = ("Pacific/Auckland", "America/Los_Angeles")


@pytest.mark.parametrize(
    "zone", ["Europe/Berlin", *(pytest.param(zone, marks=pytest.mark.deep) for zone in FAR_ZONES)]
)
def test_zones_with_daylight_saving_do_not_move_a_bound(own_database, own_home, faults, zone):
    """By SQL in a session of that zone, over both changes of a year, and by the command."""
    with own_database.connect() as session:
        make_world(session, own_database.dsn)
        session.execute(f"ALTER DATABASE {own_database.name} SET timezone = '{zone}'")
    with own_database.connect() as session:
        assert session.execute("SHOW timezone").fetchone() == (zone,)
        for table in TABLES:
            for day in ("2031-03-08", "2031-03-30", "2031-04-06", "2031-10-26", "2031-11-02"):
                session.execute("SELECT partitions.create_time_partition(%s, %s::date)", [table, day])
                session.execute("SELECT partitions.create_time_partition(%s, %s::date + 1)", [table, day])
    world = World(own_database, own_home / "archive")
    answer = world.partitions("apply", *TABLES)
    assert answer["ok"], answer["warnings"]
    with own_database.connect() as session:
        bounds = session.execute(
            "SELECT lower_time, upper_time FROM partitions.ranges"
            " WHERE schema_name = 'app' AND NOT is_default AND lower_time IS NOT NULL"
        ).fetchall()
    faults.happened("change of the clocks", 10)
    faults.did(partitions=len(bounds))
    faults.wrong(
        not_a_day_long=sum(upper.timestamp() - lower.timestamp() != 86_400 for lower, upper in bounds),
        not_at_midnight_utc=sum(lower.timestamp() % 86_400 != 0 for lower, _ in bounds),
    )


@pytest.mark.deep
def test_a_server_restarted_in_the_middle_of_a_detach_is_followed_by_a_run_that_finishes(
    restartable, own_home, faults
):
    server = restartable("postgres")
    url = server.server.url()
    database = Database("mistersmith", url)
    world = World(database, own_home / "archive")
    migrated = world.run("manage.py", "migrate", "--verbosity=0")
    assert migrated.returncode == 0, migrated.stderr[-2000:]
    with database.connect() as session:
        make_world(session, database.dsn)
    reader = psycopg.connect(url)
    reader.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
    reader.execute(f"SELECT count(*) FROM app.events_{midnight(-9):%Y_%m_%d}")
    applier = world.start("manage.py", "partitions", "apply", "app.events")
    eventually(lambda: detaching(database) or applier.poll() is not None, 60)
    faults.kill("postgres", server)
    reader.close()
    assert applier.wait(60) != 0, "a run that lost its server has not succeeded"
    server.start()
    world.put_in_order(faults)


WAITING_DETACH = (
    "pg_stat_activity WHERE query LIKE '%DETACH PARTITION%' AND wait_event_type = 'Lock'"
    " AND datname = current_database() AND pid <> pg_backend_pid()"
)


def detaching(database: Database) -> bool:
    with database.connect() as session:
        return count(session, WAITING_DETACH) > 0


def test_a_stranger_with_a_fitting_name_is_left_alone(world, faults):
    """The guide's function found tables by their names, in any schema, and dropped them."""
    faults.happened("stranger with a fitting name", 2)
    with world.database.connect() as session:
        session.execute(
            "UPDATE partitions.policies SET on_expiry = 'drop' WHERE table_name = ANY(%s)", [TABLES]
        )
        made = session.execute("SELECT partitions.manage_time_partitions('app.events', 5, 2)").fetchone()[0]
        faults.did(made_or_dropped=made)
    answer = world.partitions("apply", *TABLES)
    assert answer["ok"]
    with world.database.connect() as session:
        faults.wrong(strangers_dropped=2 - strangers(session))


def test_a_detach_that_waits_lets_writers_pass(world, faults):
    """The collision made certain: the applier waits behind a reader, and a writer comes after it."""
    with world.database.connect() as reader, world.database.connect() as writer:
        reader.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
        reader.execute("SELECT count(*) FROM app.events")
        applier = world.start("manage.py", "partitions", "apply", "app.events")
        eventually(lambda: detaching(world.database), 60)
        faults.happened("applier waiting for a reader")
        writer.execute("SET lock_timeout = '10s'")
        written = 0
        for _ in range(20):
            written += writer.execute("INSERT INTO app.events (note) VALUES ('x')").rowcount
        writer.execute("DELETE FROM app.events WHERE note = 'x'")
        faults.did(rows_written=written)
        reader.execute("COMMIT")
        assert applier.wait(60) == 0
    world.put_in_order(faults)
