"""A server of our own over a restored data directory: replayed to a target, reached by a socket only.

All that it must do differently from the original is on its command line, which wins over postgresql.auto.conf: it
listens nowhere, archives nothing, loads no libraries and waits for no standby. Its own configuration stays untouched.
"""

import logging
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import psycopg

from pg import account, leash
from recovery.errors import Damaged, RecoveryError, RestoreFailed
from recovery.materialising import give_to_server
from recovery.server import Server
from recovery.tools import Tools
from recovery.wal import parse_lsn
from recovery.wal_archive import SEGMENT

log = logging.getLogger(__name__)
POLL_SECONDS = 0.1
STOP_SECONDS = 60
PORT = "5432"  # only part of the socket's name
TOLD = re.compile(r" (FATAL|PANIC): |wal_archive:")
ASKED_TOO_EARLY = re.compile("is starting up|not accepting connections|is not yet accepting")
CONTROL_LINE = re.compile(r"^(max_\w+) setting:\s+(\d+)$", re.MULTILINE)
QUIET = {
    "listen_addresses": "", "port": PORT, "archive_mode": "off", "ssl": "off", "logging_collector": "off",
    "log_destination": "stderr", "log_line_prefix": "%m [%p] ", "log_min_messages": "warning",
    "shared_preload_libraries": "", "session_preload_libraries": "", "local_preload_libraries": "",
    "synchronous_standby_names": "", "primary_conninfo": "", "cluster_name": "",
    "shared_buffers": "64MB", "max_wal_size": "4GB", "hot_standby": "off", "autovacuum": "off",
    "recovery_target": "", "recovery_target_time": "", "recovery_target_lsn": "", "recovery_target_name": "",
    "recovery_target_xid": "", "recovery_target_inclusive": "on", "recovery_target_action": "promote",
    "recovery_end_command": "", "archive_cleanup_command": "", "timezone": "UTC", "log_timezone": "UTC",
}  # fmt: skip


# -- the server ---------------------------------------------------------------------------------------------
@dataclass
class Cluster:
    """A server over `data`. `settings` are added to QUIET: recovery target, timeline, restore_command."""

    data: Path
    tools: Tools
    settings: Mapping[str, str]
    user: str = "postgres"  # the role to connect as
    process: "subprocess.Popen[bytes] | None" = None
    sockets: Path = field(default_factory=Path)

    @property
    def log_path(self) -> Path:
        return self.data.parent / f"{self.data.name}.log"

    @property
    def server(self) -> Server:
        return Server("postgres", {"host": str(self.sockets), "port": PORT, "user": self.user})

    def argv(self) -> list[str]:
        user = account.server_user()
        as_user = [f"--user={user}"] if user else []
        files = {f"{name}_file": str(self.sockets / f"{name}.conf") for name in ("config", "hba", "ident")}
        # the target comes last: PostgreSQL refuses to clear the others once one is set
        quiet = {name: value for name, value in QUIET.items() if name not in self.settings}
        given = {
            **quiet,
            **self.limits(),
            **files,
            "unix_socket_directories": str(self.sockets),
            **self.settings,
        }
        options = [word for name, value in given.items() for word in ("-c", f"{name}={value}")]
        return [
            sys.executable, "-IS", str(leash.__file__), f"--parent={os.getpid()}", *as_user, "INT",
            "--", self.tools.program("postgres"), "-D", str(self.data), *options,
        ]  # fmt: skip

    def limits(self) -> dict[str, str]:
        """Return the limits that a copy must have at least, as its control file says."""
        found = CONTROL_LINE.finditer(self.read_control())
        return {match[1].replace("_xact", "_transaction"): match[2] for match in found}

    def control(self, name: str) -> str:
        """Return one line's value of the control file."""
        lines = (line.partition(":") for line in self.read_control().splitlines())
        return next(value.strip() for found, _, value in lines if found == name)

    def read_control(self) -> str:
        argv = [self.tools.program("pg_controldata"), str(self.data)]
        done = subprocess.run(argv, capture_output=True, text=True, env={"LC_ALL": "C"})
        if done.returncode:
            raise Damaged(f"{self.data}: {done.stderr.strip()}", "choose another backup")
        return done.stdout

    def start(self) -> None:
        self.sockets = Path(
            tempfile.mkdtemp(prefix="mistersmith-")
        )  # short: a socket's path may have 107 bytes
        for name, text in {"config": "", "hba": "local all all trust\n", "ident": ""}.items():
            (self.sockets / f"{name}.conf").write_text(text)
        give_to_server(self.sockets)
        with self.log_path.open("ab") as out:
            self.process = subprocess.Popen(
                self.argv(), stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True, cwd="/"
            )

    def wait_promoted(self, timeout_seconds: float) -> None:
        """Return when recovery has really ended: the server takes connections only then (hot_standby is off).

        Raises RestoreFailed with what the server said when it ended, or does not come.
        """
        deadline = time.monotonic() + timeout_seconds
        while True:
            if self.process is None or self.process.poll() is not None:
                raise RestoreFailed(f"recovery ended without reaching its target: {self.last_words()}",
                                    "see `manage.py backup wal` for gaps, or choose another target")  # fmt: skip
            with suppress(psycopg.OperationalError), self.server.connect("postgres") as session:
                if session.execute("SELECT pg_is_in_recovery()").fetchone() == (False,):
                    return
            if time.monotonic() > deadline:
                raise RestoreFailed(f"recovery did not end within {timeout_seconds:g} s: {self.last_words()}")
            time.sleep(POLL_SECONDS)

    def last_words(self) -> str:
        lines = [line for line in self.log_path.read_text("utf-8", "replace").splitlines() if line.strip()]
        told = [line for line in lines if TOLD.search(line) and not ASKED_TOO_EARLY.search(line)]
        return " / ".join(told[-3:] or lines[-3:])

    def stop(self) -> None:
        """Shut it down with a checkpoint (the data directory is whole then), and put its sockets away."""
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
            try:
                self.process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self.process.send_signal(signal.SIGQUIT)
                self.process.wait()
        shutil.rmtree(self.sockets, ignore_errors=True)


def end_of_recovery(data: Path) -> tuple[int, int, str]:
    """Return the timeline that was replayed, the position where it was left, and why, as the promotion wrote it.

    Raises RecoveryError when there was none.
    """
    histories = sorted((data / "pg_wal").glob("[0-9A-F]*.history"))
    text = histories[-1].read_text() if histories else ""
    lines = [line.split("\t", 2) for line in text.splitlines() if "\t" in line]
    if not lines:
        raise RecoveryError(f"{data} was not promoted", "see its log")
    timeline, lsn, why = lines[-1]
    return int(timeline), parse_lsn(lsn), why


def ask_for_archiving(cluster: Cluster) -> None:
    """Let the server that is started on its data archive what came about while it was restored without an archive.

    That is the new timeline's history, without which no later restore finds the way, and its finished segments. Safe
    twice.
    """
    wal, status = cluster.data / "pg_wal", cluster.data / "pg_wal" / "archive_status"
    status.mkdir(mode=0o700, exist_ok=True)
    histories = sorted(wal.glob("[0-9A-F]*.history"))
    if not histories:
        return
    newest, current = histories[-1].name, cluster.control("Latest checkpoint's REDO WAL file")
    segments = sorted(path.name for path in wal.glob(f"{newest[:8]}*") if SEGMENT.fullmatch(path.name))
    finished = [name for name in segments if name < current]
    for name in (newest, *finished):
        if not (status / f"{name}.done").exists():
            (status / f"{name}.ready").touch()
    give_to_server(status)
