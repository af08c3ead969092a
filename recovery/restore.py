"""Restore a backup into a database of its own. Never over one that holds anything."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

from pg.errors import Refused
from recovery import catalogue, manifest
from recovery.archive import create_database, drop_database, load_dump
from recovery.catalogue import Status
from recovery.contents import QUERIES
from recovery.errors import Busy, Damaged, TargetInUse
from recovery.logical import default_jobs
from recovery.models import Backup
from recovery.server import Server, Session, exclusive, home_server
from recovery.tidying import tidy
from recovery.tools import Tools, find_tools_to_load
from recovery.verify import compare_database, require_roles


@dataclass
class Plan:
    """What a restore is going to do. `is_new`: the database is made, and removed again should the restore fail."""

    backup: Backup
    body: dict[str, Any]
    target: str
    is_new: bool
    tools: Tools
    warnings: list[str] = field(default_factory=list)

    @property
    def steps(self) -> list[dict[str, str]]:
        rows = sum(self.body["row_counts"].values())
        said = "it is not there" if self.is_new else "it is there and empty"
        steps = [
            (
                "check",
                str(catalogue.folder_of(self.backup)),
                "every file against the manifest, before anything",
            ),
            ("create" if self.is_new else "use", f"database {self.target}", said),
            (
                "load",
                str(self.backup.pk),
                f"{rows} rows as of {self.backup.started_at:%Y-%m-%d %H:%M:%S} UTC",
            ),
            ("compare", f"database {self.target}", "tables, row counts and checksums with the manifest"),
            ("analyze", f"database {self.target}", "a dump has no statistics for the planner"),
        ]
        return [dict(zip(("action", "object", "why"), step, strict=True)) for step in steps]


def plan_restore(wanted: str, target: str) -> Plan:
    """Return what restoring would do; changes nothing. Works without our own database.

    Raises UnknownBackup, Damaged for a backup that is known to be, TargetInUse for a database with anything in it,
    Refused when roles are missing, UnfitTools.
    """
    backup, warnings = catalogue.find(wanted, (Backup.Kind.LOGICAL,))
    if backup.kind != Backup.Kind.LOGICAL:
        raise Refused(
            f"backup {backup.pk} is of the whole server: it does not go into one database",
            "restore it into a data directory: --target-directory DIR",
        )
    if backup.status in (Status.RUNNING, Status.FAILED, Status.DAMAGED):
        raise Damaged(f"backup {backup.pk} is {backup.status}: {backup.error or 'not finished'}",
                      "choose another one: `manage.py backup list`")  # fmt: skip
    if backup.status != Status.VERIFIED:
        warnings.append(
            f"backup {backup.pk} was never verified; what is restored is compared with its manifest"
        )
    server, body = home_server(), manifest.read_manifest(catalogue.folder_of(backup))
    with server.connect_anywhere() as session:
        require_roles(session, body["database"])
        tools = find_tools_to_load(backup.tool_version, session.info.server_version // 10000)
        return Plan(backup, body, target, not is_empty_database(server, session, target), tools, warnings)


def is_empty_database(server: Server, session: Session, name: str) -> bool:
    """Tell whether database `name` exists and is empty; False: it does not exist. Raises TargetInUse otherwise."""
    if session.execute("SELECT FROM pg_database WHERE datname = %s", [name]).fetchone() is None:
        return False
    with server.connect(name) as inside:
        objects = inside.execute(QUERIES.text("foreign_objects")).fetchone()[0]  # type: ignore[index]
    if objects:
        raise TargetInUse(
            f"database {name} exists and holds {objects} tables, functions or schemas: it is left as it is",
            "restore into a new name, look at it, then rename: ALTER DATABASE ... RENAME TO",
        )
    return True


def restore(plan: Plan) -> list[str]:
    """Do what the plan says; return how the result differs from the backup, one line each: none when it is equal.

    Raises Damaged when a file is not what was written or the dump lacks tables, ToolFailed when the load fails: a
    database that was made for it is gone then, one that was there may be half full.
    """
    server, folder = home_server(), catalogue.folder_of(plan.backup)
    with catalogue.in_use(folder) as is_ours:
        if not is_ours:
            raise Refused(f"backup {plan.backup.pk} is being pruned", "choose another one")
        require_whole(plan)
        with server.connect_anywhere() as session, target_database(session, plan):
            load_dump(folder, server, plan.target, plan.tools, default_jobs())
        problems = compare_database(server, plan.target, plan.body)
    with server.connect(plan.target) as session:
        session.execute("ANALYZE")
    if plan.target == server.database:
        catch_up(server)
    return problems


def catch_up(server: Server) -> None:
    """Bring the restored catalogue, which ends at its own backup, in step with what lies beside the data."""
    with suppress(Busy), exclusive(server):
        tidy()


def require_whole(plan: Plan) -> None:
    problems = manifest.check_files(catalogue.folder_of(plan.backup), plan.backup.manifest_sha256)
    if problems:
        raise Damaged(f"backup {plan.backup.pk}: {'; '.join(problems[:5])}", "choose another one")


@contextmanager
def target_database(session: Session, plan: Plan) -> Iterator[None]:
    """Make the target where the plan says so; when the block fails, remove what was made."""
    if not plan.is_new:
        yield
        return
    create_database(session, plan.target, plan.body["database"])
    try:
        yield
    except BaseException:
        drop_database(session, plan.target)
        raise
