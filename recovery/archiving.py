"""Switch WAL archiving on: a place that the server's user can write, a program that it can run, the settings to give.

Nothing here imports Django: the embedded server is prepared before settings can be loaded.
"""

import os
import pwd
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

from pg import account
from recovery import wal_archive
from recovery.errors import RecoveryError

PROGRAM = Path(wal_archive.__file__)
# our own interpreter lies where the server's user may not enter when it was installed below a home folder
INTERPRETERS = ("/usr/bin/python3", "/usr/local/bin/python3")
TIMEOUT_SECONDS = 60


def prepare_archive(repository: Path, user: str | None) -> Path:
    """Make `<repository>/wal` for the server's user, and the program beside it; return the place to archive to.

    `user` None: whoever we are. Where the user cannot enter the repository's folder, the archive lies in a shelter (see
    pg.account) and `<repository>/wal` points there. Running it again changes nothing that is in order. Raises
    RecoveryError.
    """
    entry = account.ensure_user(user) if user else None
    try:
        place = make_place(repository, entry)
        for folder in (place / "wal", place / "bin"):
            folder.mkdir(mode=0o700, exist_ok=True)
            give(folder, entry)
        shutil.copyfile(PROGRAM, place / "bin" / PROGRAM.name)
        give(place / "bin" / PROGRAM.name, entry)
        if place != repository:
            point(repository / "wal", place / "wal")
    except OSError as error:
        raise RecoveryError(
            f"{error.filename}: {error.strerror}", "set MISTERSMITH_BACKUP_DIR to a folder that we may write"
        ) from error
    return place


def make_place(repository: Path, entry: pwd.struct_passwd | None) -> Path:
    """Return the repository, or its shelter; others may pass through it to what they know by name, not list it."""
    repository.mkdir(mode=0o700, parents=True, exist_ok=True)
    if entry is None:
        return repository
    repository.chmod(0o711)
    return repository if account.can_execute(entry, repository) else account.shelter(repository)


def point(link: Path, target: Path) -> None:
    if link.is_symlink() or not link.exists():
        link.unlink(missing_ok=True)
        link.symlink_to(target)


def give(path: Path, entry: pwd.struct_passwd | None) -> None:
    if entry is not None:
        os.chown(path, entry.pw_uid, entry.pw_gid)


def find_interpreter(program: Path, user: str | None) -> str:
    """Return a Python that can run `program` as the server's user, found by running it. Raises RecoveryError."""
    entry = account.ensure_user(user) if user else None
    for python in dict.fromkeys((sys.executable, os.path.realpath(sys.executable), *INTERPRETERS)):
        if can_run([python, "-IS", str(program), "check"], entry):
            return python
    raise RecoveryError(
        f"no Python that user {user or 'of this process'} can run was found",
        "install one: apt-get install python3",
    )


def can_run(argv: list[str], entry: pwd.struct_passwd | None) -> bool:
    who = {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []} if entry else {}
    try:
        done = subprocess.run(argv, capture_output=True, cwd="/", timeout=TIMEOUT_SECONDS, **who)  # type: ignore[call-overload]
    except (OSError, subprocess.TimeoutExpired):
        return False
    return bool(done.returncode == 0)


def archive_command(place: Path, python: str, level: int = 1) -> str:
    """Return the value of archive_command for the archive in `place`."""
    program = place / "bin" / PROGRAM.name
    return f"{quote(python)} -IS {quote(program)} push %p {quote(place)} --level={level}"


def restore_command(place: Path, python: str) -> str:
    """Return the value of restore_command for the archive in `place`."""
    program = place / "bin" / PROGRAM.name
    return f"{quote(python)} -IS {quote(program)} get %f %p {quote(place)}"


def quote(text: str | Path) -> str:
    """Return `text` as one word of a shell; PostgreSQL reads %% as %."""
    return shlex.quote(str(text)).replace("%", "%%")
