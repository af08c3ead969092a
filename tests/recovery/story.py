"""A small server with an archive and a short history of backups, made once per worker; copies for tests to spoil.

Rows are numbered and committed one at a time, so that each moment of the history has its own number of rows.
"""

import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import psycopg
import pytest
from django.conf import settings
from psycopg import sql

from cockpit.servers import Running
from pg import account
from recovery import archiving, drill, physical, prune, recover
from recovery.models import Backup
from recovery.server import Server
from recovery.tidying import tidy
from recovery.wal import Segment, open_archive, parse_lsn
from tests.versions import FAST, PROGRAMS, asked_major, make_server

# small and quick; what is restored must survive nothing either
SMALL = {
    **FAST,
    "shared_buffers": "16MB",
    "max_connections": "30",
    "min_wal_size": "32MB",
    "archive_timeout": "0",
}
MAJOR = asked_major()
HAS_INCREMENTAL = MAJOR >= physical.INCREMENTAL_SINCE
MODULES = (physical, recover, drill, prune)


@dataclass
class Moment:
    """A moment of the history: how many rows there were, and where. `time` lies between two commits."""

    rows: int
    time: datetime
    lsn: str
    xid: str


@dataclass
class Story:
    running: Running
    root: Path
    moments: dict[str, Moment] = field(default_factory=dict)
    backups: dict[str, Backup] = field(default_factory=dict)

    @property
    def server(self) -> Server:
        postgres = self.running.server
        given = {"host": "127.0.0.1", "port": str(postgres.port()), "user": "mistersmith"}
        return Server("mistersmith", given, postgres.password())

    def connect(self) -> psycopg.Connection[Any]:
        return psycopg.connect(self.running.server.url(), autocommit=True)

    def write(self, name: str, rows: int = 5) -> Moment:
        """Commit rows one at a time, and remember the moment after the last under `name`."""
        with self.connect() as session:
            for _ in range(rows):
                session.execute("INSERT INTO numbered DEFAULT VALUES")
            xid = session.execute("SELECT max(xid::text::bigint) FROM numbered").fetchone()[0]
            count, time = session.execute("SELECT count(*), clock_timestamp() FROM numbered").fetchone()
            lsn = session.execute("SELECT pg_create_restore_point(%s)", [name]).fetchone()[0]
            session.execute("INSERT INTO numbered DEFAULT VALUES")
        self.moments[name] = Moment(count, time, lsn, str(xid))
        return self.moments[name]

    def archive_to(self, *roots: Path) -> None:
        """Let the server archive into each of these backup folders from now on."""
        command = " && ".join(archive_command_for(root) for root in roots)
        with self.connect() as session:
            session.execute(sql.SQL("ALTER SYSTEM SET archive_command = {}").format(command))
            session.execute("SELECT pg_reload_conf()")

    def segments(self) -> list[str]:
        """Return the names of the archived segments, in order."""
        return sorted(path.name[:24] for path in (self.root / "wal").glob("0*/*.gz") if len(path.name) == 27)

    def segment_of(self, lsn: str) -> Path:
        """Return the archived file that holds a position."""
        archive = open_archive()
        return archive.path(Segment(1, parse_lsn(lsn) // archive.segment_bytes).name(archive.segment_bytes))

    def switch(self) -> None:
        """Finish the WAL segment and wait until it is archived."""
        with self.connect() as session:
            name = session.execute("SELECT pg_walfile_name(pg_current_wal_insert_lsn())").fetchone()[0]
            session.execute("SELECT pg_switch_wal()")
        from tests.recovery.conftest import eventually

        eventually(lambda: open_archive().path(name).exists())

    def rows_in(self, plan: Any, place: Path) -> int:
        """Carry a plan out and count the rows."""
        with (
            recover.recovered(plan, place / "restored", sync=False) as (cluster, _),
            cluster.server.connect("mistersmith") as session,
        ):
            return int(session.execute("SELECT count(*) FROM public.numbered").fetchone()[0])


def frozen_of(root: Path) -> Path:
    """Return where the history lies as it was told: a live test goes on writing into the original."""
    return root.with_name("frozen")


def archive_command_for(root: Path) -> str:
    place = archiving.prepare_archive(root, account.server_user())
    python = archiving.find_interpreter(place / "bin" / archiving.PROGRAM.name, account.server_user())
    return archiving.archive_command(place, python)


def begin_story(home: Path) -> Story:
    root = home / "backups"
    postgres = Running(make_server(MAJOR, home, SMALL, root)).start()
    story = Story(postgres, root)
    with story.connect() as session:
        session.execute(
            "CREATE TABLE numbered (n bigserial PRIMARY KEY, at timestamptz DEFAULT clock_timestamp(),"
            " xid xid8 DEFAULT pg_current_xact_id())"
        )
    return story


def use_server(patch: pytest.MonkeyPatch, story: Story) -> None:
    """Let backups be of the story's server, while the catalogue's table stays in the test's database."""
    if MAJOR in PROGRAMS:
        patch.setattr(settings, "PG_BIN_DIR", str(PROGRAMS[MAJOR]))
    for module in MODULES:
        patch.setattr(module, "home_server", lambda: story.server, raising=False)


@pytest.fixture(scope="session")
def told(django_db_setup: None, django_db_blocker: Any, make_home: Any) -> Iterator[Story]:
    """base, rows, incremental, rows: a history with the moments `early`, `middle` and `late`. Before PostgreSQL 17 the
    second one is a base backup too."""
    if MAJOR in PROGRAMS and not (PROGRAMS[MAJOR] / "pg_basebackup").exists():
        pytest.skip(f"the programs of PostgreSQL {MAJOR} are not installed: only they restore its backups")
    home = make_home()
    story = begin_story(home)
    with pytest.MonkeyPatch.context() as patch, django_db_blocker.unblock():
        patch.setattr(settings, "BACKUP_DIR", story.root)
        use_server(patch, story)
        story.write("before")
        story.backups["base"] = physical.back_up_server()
        story.write("early")
        story.backups["incremental"] = physical.back_up_server(incremental=HAS_INCREMENTAL)
        story.write("middle")
        story.switch()
        story.write("late")
        story.switch()
        Backup.objects.all().delete()
    subprocess.run(["cp", "-a", "--reflink=auto", story.root, frozen_of(story.root)], check=True)
    yield story
    story.running.stop()
    shutil.rmtree(home, ignore_errors=True)


@pytest.fixture
def story(told: Story, backup_dir: Path, monkeypatch: pytest.MonkeyPatch, db: None) -> Story:
    """A copy of the history in this test's backup folder; its server goes on archiving into the original's."""
    subprocess.run(["cp", "-a", "--reflink=auto", frozen_of(told.root), backup_dir], check=True)
    use_server(monkeypatch, told)
    tidy()
    return Story(told.running, backup_dir, dict(told.moments), dict(told.backups))


@pytest.fixture
def live(story: Story, told: Story) -> Iterator[Story]:
    """The same, and its server archives into this folder too, which has all that it archived since the telling."""
    subprocess.run(["cp", "-a", "--no-clobber", f"{told.root}/wal/.", f"{story.root}/wal/"], check=True)
    story.archive_to(story.root, told.root)
    yield story
    with story.connect() as session:
        session.execute("ALTER SYSTEM RESET archive_command")
        session.execute("SELECT pg_reload_conf()")


@pytest.fixture
def place(own_home: Path) -> Path:
    """A folder to restore below, which the server's user can enter."""
    folder = own_home / "restored"
    folder.mkdir(mode=0o711)
    return folder


# for what PostgreSQL 15 and 16 cannot
needs_incremental = pytest.mark.skipif(
    not HAS_INCREMENTAL, reason="incremental backups came with PostgreSQL 17"
)

__all__ = ["live", "place", "story", "told"]
