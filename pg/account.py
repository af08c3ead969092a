"""Who PostgreSQL runs as under root, and folders which that user can enter.

PostgreSQL refuses to run as root. It then runs as the system user `mistersmith`. Where that user can't enter the
folders of the data or of the programs (a checkout below /root), their permissions stay as they are: the data and
a copy of the programs go to /var/lib/mistersmith/.
"""

import hashlib
import os
import pwd
import subprocess
from pathlib import Path

from pg.errors import MisterSmithError

SHELTERS = Path("/var/lib/mistersmith")
USER_HINT = "create it: useradd --system --user-group mistersmith, or set MISTERSMITH_POSTGRES_USER"


class AccountError(MisterSmithError):
    """PostgreSQL's user is missing and could not be made."""


def server_user() -> str | None:
    """Return the name of the user that PostgreSQL must run as; None: whoever we are."""
    if os.geteuid() != 0:
        return None
    return os.environ.get("MISTERSMITH_POSTGRES_USER", "mistersmith")


def ensure_user(name: str) -> pwd.struct_passwd:
    """Return the user's entry; make a system user without login when there is none. Raises AccountError."""
    try:
        return pwd.getpwnam(name)
    except KeyError:
        create_user(name)
        return pwd.getpwnam(name)


def create_user(name: str) -> None:
    argv = ["useradd", "--system", "--user-group", "--no-create-home", "--shell", "/usr/sbin/nologin", name]
    try:
        made = subprocess.run(argv, capture_output=True, text=True)
    except FileNotFoundError as error:
        raise AccountError("PostgreSQL needs a user of its own and useradd is missing", USER_HINT) from error
    if made.returncode not in (0, 9):  # 9: somebody else made it meanwhile
        raise AccountError(f"useradd {name}: {made.stderr.strip()}", USER_HINT)


def can_execute(entry: pwd.struct_passwd, path: Path) -> bool:
    """Tell whether the user may enter the folder, or run the program, at `path`."""
    argv = ["test", "-x", str(path)]
    return not subprocess.run(
        argv, user=entry.pw_uid, group=entry.pw_gid, extra_groups=[], cwd="/"
    ).returncode


def shelter(path: Path) -> Path:
    """Return the folder that stands in for `path` (made when missing, anyone may enter)."""
    place = shelter_path(path)
    place.mkdir(mode=0o755, parents=True, exist_ok=True)
    return place


def shelter_path(path: Path) -> Path:
    return SHELTERS / hashlib.sha256(str(path).encode()).hexdigest()[:12]
