"""Prove a backup: every file as it was written, and a restore of it equal to what was backed up."""

import json
import logging
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from django.db import DatabaseError, InterfaceError, connection
from django.utils import timezone

from pg.errors import Refused
from recovery import catalogue, manifest
from recovery.archive import drop_leftovers, load_dump, missing_roles, scratch_database
from recovery.catalogue import Status
from recovery.contents import (
    Contents,
    compare,
    compare_parents,
    count_through_parents,
    list_tables,
    read_contents,
    summarise,
)
from recovery.errors import Damaged
from recovery.logical import default_jobs, explain
from recovery.models import Backup
from recovery.server import Server, Session, exclusive, home_server
from recovery.tidying import tidy
from recovery.tools import find_tools_to_load

log = logging.getLogger(__name__)
UNFINISHED = (Status.RUNNING, Status.FAILED)


@dataclass
class Verdict:
    """What a verification found. No problems: the backup is verified. `seconds` maps each step to its time."""

    backup: Backup
    problems: list[str] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)
    tables: int = 0
    rows: int = 0

    def time(self, step: str, run: Callable[[], Any]) -> Any:
        began = time.monotonic()
        try:
            return run()
        finally:
            self.seconds[step] = round(time.monotonic() - began, 3)


def verify(wanted: str = "") -> Verdict:
    """Verify the logical backup of this id, by default the newest finished one, on our server; keep the verdict.

    Its status becomes verified or damaged, recovery.test_results gets a row. Where it could not be restored for another
    reason (privileges, disk full, a server that went) the error is raised and the status stays. Running it again is
    safe: scratch databases of killed runs are dropped first. Raises Busy, UnknownBackup.
    """
    server = home_server()
    with exclusive(server) as session:
        tidy()
        drop_leftovers(server, session)
        backup = choose(wanted, (Backup.Kind.LOGICAL,))
        began, verdict = timezone.now(), Verdict(backup)
        try:
            examine(verdict, server, session)
        except BaseException as error:
            record(verdict, began, explain(error))
            raise
        settle(verdict)
        record(verdict, began, summarise(verdict.problems))
    return verdict


def choose(wanted: str, kinds: Collection[str] = tuple(Backup.Kind)) -> Backup:
    """Return the backup of this id (or its beginning), by default the newest finished one of these kinds.

    Raises UnknownBackup; Refused for one that is not finished.
    """
    if wanted:
        backup = catalogue.find(wanted)[0]
    else:
        finished = [b for b in catalogue.load_all()[0] if b.status not in UNFINISHED and b.kind in kinds]
        backup = finished[0] if finished else catalogue.find(catalogue.NEWEST, kinds)[0]
    if backup.status in UNFINISHED:
        raise Refused(
            f"backup {backup.pk} is {backup.status}: there is nothing to verify",
            "see `manage.py backup list`",
        )
    return backup


def examine(verdict: Verdict, server: Server, session: Session) -> None:
    """Fill the verdict: files first, and only if they are whole the restore."""
    folder = catalogue.folder_of(verdict.backup)
    sha256 = verdict.backup.manifest_sha256
    verdict.problems = verdict.time("files", lambda: manifest.check_files(folder, sha256))
    if verdict.problems:
        return
    tools = find_tools_to_load(verdict.backup.tool_version, session.info.server_version // 10000)
    body = manifest.read_manifest(folder)
    require_roles(session, body["database"])
    with scratch_database(server, session, verdict.backup, body["database"]) as name:
        try:
            verdict.time("restore", lambda: load_dump(folder, server, name, tools, default_jobs()))
        except Damaged as error:
            verdict.problems = [str(error)]
            return
        verdict.problems = verdict.time("compare", lambda: compare_database(server, name, body, verdict))


def require_roles(session: Session, made: dict[str, Any]) -> None:
    if missing := missing_roles(session, made):
        raise Refused(
            f"the server lacks roles that the backup needs: {', '.join(missing)}",
            "make them first: globals.sql in the backup's folder has them",
        )


def compare_database(
    server: Server, name: str, body: dict[str, Any], verdict: Verdict | None = None
) -> list[str]:
    """Return how database `name` differs from what the manifest says was backed up. Reads every row."""
    wanted = Contents.from_json(body["contents"])
    with server.connect(name) as session:
        refs = list_tables(session)
        found = read_contents(session, refs)
        counts = count_through_parents(session, refs)
    if verdict is not None:
        verdict.tables, verdict.rows = len(found.tables), found.rows
    return compare(wanted, found) + compare_parents(wanted, counts)


def settle(verdict: Verdict) -> None:
    """Write the verdict into the catalogue."""
    backup = verdict.backup
    if verdict.problems:
        backup.status, backup.error = Status.DAMAGED, summarise(verdict.problems)
        log.error("%s: %s", backup, backup.error)
    else:
        backup.status, backup.error = Status.VERIFIED, None
        backup.verified_at = max(timezone.now(), backup.completed_at or backup.started_at)
    catalogue.save(backup)


def record(verdict: Verdict, began: datetime, error: str) -> None:
    """Add a row to recovery.test_results, and the error to the entry. Without our database it is only logged."""
    backup = verdict.backup
    if error and backup.status != Status.DAMAGED:
        backup.error = f"could not be verified: {error}"
        catalogue.save(backup)
    figures = {
        **{f"{step}_seconds": seconds for step, seconds in verdict.seconds.items()},
        "backup_id": str(backup.pk), "tables": verdict.tables, "rows": verdict.rows, "bytes": backup.size_bytes,
    }  # fmt: skip
    try:
        with connection.cursor() as cursor:
            cursor.execute(
                "SELECT recovery.record_test_result('full_restore', %s, NULL, %s, %s, %s, %s, %s, %s)",
                [backup.started_at, "failed" if error else "passed",
                 not verdict.problems if verdict.problems or not error else None, json.dumps(figures),
                 f"verification of logical backup {backup.pk}", began, [error] if error else None],
            )  # fmt: skip
    except (DatabaseError, InterfaceError) as failed:
        log.warning("the drill's result is not recorded: %s", str(failed).strip())
