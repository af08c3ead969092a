"""On each PostgreSQL that we promise to run on: migrations both ways, a short story, the tests of the rooms."""

import json
import os
import re
import subprocess
import sys
import time
from dataclasses import dataclass

import psycopg
import pytest

from cockpit.servers import Running
from tests.schema.test_migrations import BACKWARDS, FORWARDS, objects_in, run_step
from tests.versions import (
    MAJORS,
    PROGRAMS,
    ROOT,
    WITHOUT_CONTRIB,
    WITHOUT_PGVECTOR,
    has_programs,
    make_server,
)

pytestmark = pytest.mark.deep
# what speaks SQL that a version may take otherwise; processes and pages are the same on each
ROOMS = (
    "schema",
    "pg",
    "operators",
    "monitoring",
    "partitions",
    "agents",
    "tasks",
    "messaging",
    "sessions",
    "bridge",
)
FILES = ("recovery/test_functions.py", "recovery/test_contents.py")
# they write rows of the knowledge room, or look for its extension; 16 and 18 run them
NEED_PGVECTOR = (
    "schema/test_constraints.py",
    "schema/test_indexes.py",
    "recovery/test_contents.py::test_other_objects_are_named_and_extensions_left_out",
    "recovery/test_functions.py::test_a_fresh_database_is_consistent_and_every_table_is_listed_once",
)
# they look with auto_explain or pg_stat_statements, which the wheel of 16 does not have; the others run them
NEED_CONTRIB = (
    "schema/test_pruning.py",
    "monitoring/test_checks.py::test_the_statement_statistics_are_installed",
    "monitoring/test_server.py::test_statements_are_those_of_this_database",
    "monitoring/test_server.py::test_command_suggests_with_evidence",
    "monitoring/test_statistics.py::test_an_index_is_suggested_for_the_column_that_is_searched",
    "monitoring/test_statistics.py::test_without_pg_stat_statements_nothing_is_suggested_and_a_notice_says_why",
)
LONGEST_SECONDS = 2400
STORY = """
import json
from datetime import timedelta
import django
django.setup()
from django.apps import apps
from django.core.management import call_command
from django.db import connection
from agents.checkpoints import create_checkpoint
from agents.liveness import record_heartbeats
from agents.registry import change_status, register_agent
from agents.state import read_state, write_state
from bridge.outbox import read_depth
from messaging.delivery import acknowledge, take
from messaging.send import send
from sessions.lifecycle import authenticate, open_session
from tasks.claim import claim, finish
from tasks.enqueue import enqueue
from tasks.leaves import register_types
from tasks.models import Execution, Task
from tasks.sweep import sweep

call_command("partitions", "apply", verbosity=0)
register_types()
ann, bob = (register_agent("reader", name) for name in ("ann", "bob"))
change_status(ann.pk, "active")
record_heartbeats([ann.pk])
write_state(ann.pk, {"page": 1, "name": "grüß"})
write_state(ann.pk, {"page": 2})
assert read_state(ann.pk) == {"page": 2, "name": "grüß"}
create_checkpoint(ann.pk, "here")
assert read_depth(connection).rows > 0

first = enqueue("echo", {"n": 1})
second = enqueue("echo", {"n": 2}, depends_on=[first])
(claimed,) = claim("echo", ann.pk, limit=5)
assert claimed.task_id == first
assert finish(claimed, {"n": 1}) and not finish(claimed, {"n": 1})
(claimed,) = claim("echo", ann.pk, limit=5)
assert claimed.task_id == second and finish(claimed, None)
assert set(Task.objects.values_list("status", flat=True)) == {"completed"}
assert Execution.objects.filter(status="completed").count() == 2
sweep()

send({"hello": 1}, to_agent=bob.pk, from_agent=ann.pk)
assert acknowledge(*take(bob.pk)) == 1
_, token = open_session(timedelta(hours=1), agent_id=ann.pk)
assert authenticate(token).agent_id == ann.pk

if apps.is_installed("knowledge"):
    from knowledge.facts import assert_fact
    from knowledge.search import search_text
    assert_fact("module", "argparse", "summary", "parses the command line", source_agent_id=ann.pk)
    assert list(search_text("command line"))

with connection.cursor() as cursor:
    cursor.execute("SELECT table_name, issues_found FROM recovery.verify_data_consistency() WHERE issues_found <> '{}'")
    assert cursor.fetchall() == []
    cursor.execute("SELECT * FROM monitoring.suggest_missing_indexes()")
    cursor.execute("SELECT * FROM monitoring.check_connection_pool_health()")
    cursor.execute("SELECT split_part(current_setting('server_version'), ' ', 1)")
    print(json.dumps({"version": cursor.fetchone()[0], "outbox": read_depth(connection).rows}))
"""


@dataclass(frozen=True)
class Installed:
    """What `run_step` and `objects_in` need of a database: its address, and the switch for its processes."""

    major: int
    url: str

    @property
    def environ(self):
        return {
            "DATABASE_URL": self.url,
            "MISTERSMITH_KNOWLEDGE": str(self.major not in WITHOUT_PGVECTOR).lower(),
            "DJANGO_SETTINGS_MODULE": "config.settings",
        }

    def connect(self):
        return psycopg.connect(self.url, autocommit=True)


@pytest.fixture(params=MAJORS)
def major(request):
    if not has_programs(request.param):
        pytest.skip(
            f"PostgreSQL {request.param} is not at {PROGRAMS[request.param]}: make system-deps test-deep"
        )
    return request.param


@pytest.fixture
def installed(major, own_home):
    """An empty database on a server of that version, started for this test alone."""
    with Running(make_server(major, own_home)) as running:
        yield Installed(major, running.server.url())


@pytest.mark.ci
def test_migrations_go_both_ways_and_the_story_is_told(installed, matrix):
    run_step(installed, "[call_command('migrate', label, verbosity=0) for label in others]")
    without_rooms = objects_in(installed)
    run_step(installed, FORWARDS)
    with_rooms = objects_in(installed)
    run_step(installed, BACKWARDS)
    assert objects_in(installed) == without_rooms
    run_step(installed, FORWARDS)
    assert objects_in(installed) == with_rooms
    told = tell_story(installed)
    assert told["version"].startswith(str(installed.major))
    assert told["outbox"] > 0
    pgvector = "without" if installed.major in WITHOUT_PGVECTOR else "with"
    matrix(
        server=told["version"],
        pgvector=pgvector,
        migrations=f"both ways, {len(with_rooms)} objects",
        story="told",
    )


def tell_story(installed):
    done = subprocess.run(
        [sys.executable, "-c", STORY],
        cwd=ROOT,
        env=os.environ | installed.environ,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_the_tests_of_the_rooms_pass(major, matrix):
    """18 is what `make test` runs on: there this is the same selection once more."""
    began = time.monotonic()
    folders = [f"tests/{name}" for name in (*ROOMS, *FILES)]
    options = ["-q", "-p", "no:cacheprovider"]
    if major in WITHOUT_PGVECTOR:
        options += ["-k", "not knowledge", *map(leave_out, NEED_PGVECTOR)]
    if major in WITHOUT_CONTRIB:
        options += map(leave_out, NEED_CONTRIB)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *options, "-m", "not deep and not servers", *folders],
        cwd=ROOT,
        env=without_xdist(os.environ) | {"POSTGRES_MAJOR": str(major)},
        capture_output=True,
        text=True,
        timeout=LONGEST_SECONDS,
    )
    ended = done.stdout[-20000:]
    passed, skipped = (sum(map(int, re.findall(rf"(\d+) {word}", ended))) for word in ("passed", "skipped"))
    matrix(tests=f"{passed} passed, {skipped} not run", seconds=f"{time.monotonic() - began:.0f}")
    assert done.returncode == 0, ended
    assert passed > 500


def leave_out(name):
    """A file is not even imported."""
    return f"--{'deselect' if '::' in name else 'ignore'}=tests/{name}"


def without_xdist(environ):
    """A run of its own: with servers of its own, whatever runs this test."""
    ours = re.compile("PYTEST_|MISTERSMITH_HOME|DATABASE_URL|NATS_URL|CELERY_BROKER_URL|REQUIRE_ALL")
    return {name: value for name, value in environ.items() if not ours.match(name)}
