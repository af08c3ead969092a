"""A real backup, made once per worker, and copies of it for each test to spoil."""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from django.conf import settings
from django.db import connection, connections

from recovery import catalogue
from recovery.logical import back_up
from recovery.models import Backup
from tests.conftest import WORKER, use_database
from tests.recovery.story import live, place, story, told  # noqa: F401  (fixtures)

ROOT = Path(__file__).parents[2]
# rows of every sort of table: plain, by hash, by list, by time, with generated columns, unlogged, with odd names
WORLD = """
INSERT INTO agents.registry (agent_type, agent_name) SELECT 'worker', 'agent ' || n FROM generate_series(1, 20) n;
INSERT INTO agents.state (agent_id, state_key, state_value)
SELECT agent_id, 'key', jsonb_build_object('n', random()) FROM agents.registry;
INSERT INTO tasks.queue (task_type, payload) SELECT 'echo', jsonb_build_object('n', n) FROM generate_series(1, 9) n;
SELECT partitions.create_time_partition('messages.log', CURRENT_DATE + 40);
CREATE SCHEMA odd;
CREATE UNLOGGED TABLE odd."Un logged" (counted int DEFAULT 7, "row" text DEFAULT 'it''s',
  twice int GENERATED ALWAYS AS (counted * 2) STORED);
INSERT INTO odd."Un logged" DEFAULT VALUES;
CREATE TABLE odd.empty ();
CREATE TABLE odd.few (n bigint GENERATED ALWAYS AS IDENTITY, t timestamptz DEFAULT now(), f float8);
INSERT INTO odd.few (f) SELECT random() FROM generate_series(1, 100);
"""


FACTS = """
INSERT INTO knowledge.facts (entity_type, entity_id, predicate, object_value, object_type)
VALUES ('e', '1', 'is', '1', 'number');
"""


@dataclass(frozen=True)
class Original:
    backup_id: UUID
    root: Path


@pytest.fixture(scope="session")
def original(
    django_db_setup: None, django_db_blocker: Any, clones: Any, make_home: Any
) -> Iterator[Original]:
    """A finished, never verified backup of a database that is gone again."""
    name, usual = f"recovery_{WORKER}", connection.settings_dict["NAME"]
    clones.create(name)
    patch, root = pytest.MonkeyPatch(), make_home() / "backups"
    patch.setattr(settings, "BACKUP_DIR", root)
    with django_db_blocker.unblock():
        use_database(name)
        with connection.cursor() as cursor:
            cursor.execute(WORLD + (FACTS if settings.KNOWLEDGE else ""))
        backup = back_up()
        use_database(usual)
        connections.close_all()
    patch.undo()
    clones.drop(name)
    yield Original(backup.pk, root)
    shutil.rmtree(root.parent)


@pytest.fixture(autouse=True)
def backup_dir(own_home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The backup folder of this test, not made yet."""
    monkeypatch.setattr(settings, "BACKUP_DIR", own_home / "backups")
    monkeypatch.setattr(settings, "BACKUP_SERVER", False)  # the tests' server holds every worker's databases
    return own_home / "backups"


@pytest.fixture
def copy(original: Original, backup_dir: Path, db: None) -> Backup:
    """A copy of the original in this test's backup folder, which may be spoilt."""
    shutil.copytree(original.root, backup_dir)
    return catalogue.find(str(original.backup_id))[0]


@pytest.fixture
def folder(copy: Backup) -> Path:
    return catalogue.folder_of(copy)


def environment_of(backup_dir: Path, database: str | None = None, **more: str) -> dict[str, str]:
    """Return the environment for a process of ours; `database` None: this test's."""
    url = os.environ["DATABASE_URL"]
    if database is not None:
        url = url.rpartition("/")[0] + f"/{database}"
    return {**os.environ, "DATABASE_URL": url, "MISTERSMITH_BACKUP_DIR": str(backup_dir), **more}


def manage(*arguments: str, env: dict[str, str], **options: Any) -> tuple[int, dict[str, Any], str]:
    """Run `manage.py backup` as a process of its own; return exit code, JSON answer and standard error."""
    argv = [sys.executable, "manage.py", "backup", *arguments, "--json"]
    done = subprocess.run(argv, cwd=ROOT, env=env, capture_output=True, text=True, timeout=120, **options)
    return done.returncode, json.loads(done.stdout or "{}"), done.stderr


def begin(*arguments: str, env: dict[str, str]) -> subprocess.Popen[bytes]:
    """Start `manage.py backup` and return the process."""
    argv = [sys.executable, "manage.py", "backup", *arguments]
    quiet = subprocess.DEVNULL
    return subprocess.Popen(argv, cwd=ROOT, env=env, stdout=quiet, stderr=quiet)


def eventually(look: Callable[[], Any], timeout_seconds: float = 60) -> Any:
    """Look until something true is seen, and return it; fail after `timeout_seconds`."""
    deadline = time.monotonic() + timeout_seconds
    while not (seen := look()):
        assert time.monotonic() < deadline, f"not seen within {timeout_seconds} s"
        time.sleep(0.01)
    return seen


def scratch_databases(clones: Any) -> list[str]:
    """Return the scratch databases of this test's database."""
    from recovery.archive import scratch_prefix
    from recovery.server import home_server

    with clones.connect() as session:
        rows = session.execute(
            "SELECT datname FROM pg_database WHERE starts_with(datname, %s)", [scratch_prefix(home_server())]
        )
        return [row[0] for row in rows.fetchall()]


def biggest(folder: Path) -> Path:
    """Return the data file with the most bytes."""
    return max((folder / "dump").glob("*.dat.gz"), key=lambda path: path.stat().st_size)
