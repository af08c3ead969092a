"""A part of a logical backup in a scratch database: only the wanted tables' data is loaded."""

import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pg.errors import Refused
from recovery import catalogue, manifest
from recovery.archive import APPLICATION, drop_leftovers, list_dump, scratch_database
from recovery.contents import summarise
from recovery.errors import Damaged
from recovery.logical import default_jobs
from recovery.models import Backup
from recovery.scope import Table
from recovery.server import Server, Session
from recovery.tools import Tools, find_tools_to_load, run
from recovery.verify import require_roles

ENTRY = re.compile(r"^\d+; \d+ \d+ TABLE DATA (\S+) (.+) (\S+)$")


@contextmanager
def loaded(server: Server, session: Session, backup: Backup, tables: list[Table]) -> Iterator[Session]:
    """Load the tables' data of a logical backup into a scratch database, and give a session on it."""
    folder = catalogue.folder_of(backup)
    if problems := manifest.check_files(folder, backup.manifest_sha256):
        raise Damaged(f"backup {backup.pk}: {summarise(problems[:5])}", "choose another one")
    body = manifest.read_manifest(folder)
    require_roles(session, body["database"])
    tools = find_tools_to_load(backup.tool_version, session.info.server_version // 10000)
    drop_leftovers(server, session)
    with scratch_database(server, session, backup, body["database"]) as name:
        load_section(folder, server, name, tools, "pre-data")
        with server.connect(name) as inside:
            leaves = leaves_of(inside, tables)
            with tempfile.NamedTemporaryFile("w", suffix=".list") as chosen:
                chosen.write(entries_of(folder, tools, leaves))
                chosen.flush()
                load_section(folder, server, name, tools, "data", f"--use-list={chosen.name}")
            yield inside


def load_section(folder: Path, server: Server, database: str, tools: Tools, section: str, *more: str) -> None:
    argv = [
        tools.program("pg_restore"), "--format=directory", f"--jobs={default_jobs()}", "--no-password",
        f"--section={section}", f"--dbname={server.conninfo(database)}", *more, str(folder / "dump"),
    ]  # fmt: skip
    run(argv, server.environment(APPLICATION))


def leaves_of(session: Session, tables: list[Table]) -> set[tuple[str, str]]:
    """Return schema and name of every relation that holds the tables' rows. Raises Refused for one that is missing."""
    found: set[tuple[str, str]] = set()
    for table in tables:
        rows = session.execute(
            "SELECT n.nspname, c.relname FROM pg_partition_tree(to_regclass(%s)) t"
            " JOIN pg_class c ON c.oid = t.relid JOIN pg_namespace n ON n.oid = c.relnamespace WHERE t.isleaf"
            " UNION SELECT n.nspname, c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
            " WHERE c.oid = to_regclass(%s)",
            [table.name, table.name],
        ).fetchall()
        if not rows:
            raise Refused(f"the backup has no table {table.name}", "choose another backup")
        found |= set(rows)
    return found


def entries_of(folder: Path, tools: Tools, leaves: set[tuple[str, str]]) -> str:
    """Return the dump's table of contents with the data of these relations alone."""
    return "\n".join(line for line in list_dump(folder, tools) if is_of(line, leaves)) + "\n"


def is_of(line: str, leaves: set[tuple[str, str]]) -> bool:
    match = ENTRY.match(line)
    return bool(match and (match[1], match[2]) in leaves)
