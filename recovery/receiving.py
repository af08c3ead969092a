"""Archive the WAL of a server that cannot run our archive_command: pg_receivewal streams it here, segment by segment.

A replication slot keeps on the server what has not arrived yet. A receiver that is gone lets the server's disk fill up,
unless max_slot_wal_keep_size says otherwise: doctor and an alarm watch the lag.
"""

import logging
import time
from collections.abc import Callable
from pathlib import Path

import psycopg
from django.conf import settings

from pg import account
from pg.errors import Refused
from recovery import catalogue, wal_archive
from recovery.archiving import give, prepare_archive
from recovery.errors import RecoveryError
from recovery.server import Server, Session, home_server
from recovery.tools import Tools, find_tools, run, running

log = logging.getLogger(__name__)
SLOT = "mistersmith_wal"
FOLDER = "receiving"
APPLICATION = "mistersmith receiver"
POLL_SECONDS = 0.2
SWITCH_SECONDS = 60  # what a disaster may cost, as archive_timeout does with archive_command


def receive(is_over: Callable[[], bool]) -> int:
    """Receive WAL until `is_over` says so; return how many files were archived.

    Safe when killed: what was received and not archived is archived by the next run, what the server kept comes again.
    A second one beside it is refused by the slot. Raises Refused without the right to replicate, UnfitTools, ToolFailed
    when pg_receivewal ends.
    """
    server = home_server()
    with server.connect_anywhere() as session:
        tools = find_tools(session.info.server_version // 10000)
        tools.require("pg_receivewal")
        require_replication(session)
        folder = make_folder()
        make_slot(server, tools)
        return archive_while_receiving(server, session, tools, folder, is_over)


def require_replication(session: Session) -> None:
    row = session.execute(
        "SELECT rolsuper OR rolreplication FROM pg_roles WHERE rolname = current_user"
    ).fetchone()
    if row is None or not row[0]:
        raise Refused(
            "the role of DATABASE_URL may not replicate",
            "ALTER ROLE ... REPLICATION, and a line in pg_hba.conf",
        )


def make_folder() -> Path:
    """Make the folder for what is on its way, and the archive."""
    catalogue.make_folders()
    user = account.server_user()
    prepare_archive(Path(settings.BACKUP_DIR), user)
    folder = catalogue.root() / FOLDER
    folder.mkdir(mode=0o700, exist_ok=True)
    return folder


def make_slot(server: Server, tools: Tools) -> None:
    """Make the slot, which keeps WAL from now on. Safe twice."""
    argv = [tools.program("pg_receivewal"), "--create-slot", "--if-not-exists", f"--slot={SLOT}", "--no-password",
            f"--dbname={server.conninfo(server.database)}"]  # fmt: skip
    run(argv, server.environment(APPLICATION))


def archive_while_receiving(
    server: Server, session: Session, tools: Tools, folder: Path, is_over: Callable[[], bool]
) -> int:
    argv = [tools.program("pg_receivewal"), f"--slot={SLOT}", "--synchronous", f"--directory={folder}", "--no-password",
            "--no-loop", f"--dbname={server.conninfo(server.database)}"]  # fmt: skip
    archived, switches = 0, Switches()
    try:
        with running(argv, server.environment(APPLICATION)) as process:
            while not is_over() and process.poll() is None:
                archived += archive_finished(folder)
                switches.look(session)
                time.sleep(POLL_SECONDS)
            if process.poll() is None:
                raise Over
    except Over:
        pass
    return archived + archive_finished(folder)


class Over(Exception):
    """Leaves the block of `running`, which stops the program."""


def archive_finished(folder: Path) -> int:
    """Push what is finished into the archive, then remove it; return how many. What is refused stays, and is said."""
    names = sorted(path.name for path in folder.iterdir() if wal_archive.NAMES.fullmatch(path.name))
    done, place = 0, (catalogue.root() / "wal").resolve().parent
    for name in names:
        if name.endswith(".partial"):
            continue
        try:
            wal_archive.push(str(folder / name), str(place))
        except (OSError, ValueError) as error:
            raise RecoveryError(
                f"WAL file {name} {error}", f"it stays in {folder}; see `manage.py backup wal`"
            ) from error
        own(Path(wal_archive.stored_path(str(place), name)))
        (folder / name).unlink()
        done += 1
    return done


def own(path: Path) -> None:
    """Give the file to the server's user, as archive_command's are: restore_command runs as that."""
    user = account.server_user()
    entry = account.ensure_user(user) if user else None
    for place in (path, path.parent, path.parent.parent / wal_archive.OWNER):
        if place.exists():
            give(place, entry)


class Switches:
    """Finishes the server's segment a minute after something was written into it, where we may."""

    def __init__(self) -> None:
        self.may, self.since, self.last = True, time.monotonic(), ""

    def look(self, session: Session) -> None:
        if not self.may or time.monotonic() - self.since < SWITCH_SECONDS:
            return
        self.since = time.monotonic()
        try:
            lsn = session.execute("SELECT pg_current_wal_insert_lsn()::text").fetchone()[0]  # type: ignore[index]
            if lsn != self.last:
                session.execute("SELECT pg_switch_wal()")
                self.last = session.execute("SELECT pg_current_wal_insert_lsn()::text").fetchone()[0]  # type: ignore[index]
        except psycopg.errors.InsufficientPrivilege:
            self.may = False
            log.warning(
                "we may not call pg_switch_wal: WAL arrives when its segment is full (HINT: GRANT EXECUTE)"
            )


def receives(session: Session) -> bool:
    """Tell whether a receiver of ours is at work on the server of this session."""
    row = session.execute("SELECT active FROM pg_replication_slots WHERE slot_name = %s", [SLOT]).fetchone()
    return bool(row and row[0])
