"""Back up PostgreSQL and JetStream at one moment, while agents and writers go on.

The server's side is a base or incremental backup and its WAL up to a named restore point; JetStream's side lies in
this backup's own folder. Order: a base backup that reaches the present, the moment under the fence, the streams that
only grow, a proof of every snapshot, the WAL, the manifest, the folder's name. Stopped anywhere before the last step it
is no backup, and all earlier ones are as good as before.
"""

import logging

from django.utils import timezone

from pg.errors import Refused
from recovery import catalogue, cross_manifest, manifest
from recovery.catalogue import Status
from recovery.chain import chain_of
from recovery.daily import back_up_changes
from recovery.errors import Damaged
from recovery.growing import prove_all, sync_snapshots, take_growing
from recovery.keeping import keepings
from recovery.logical import failure_noted, publish, require_space
from recovery.models import Backup
from recovery.moment import Moment, take_moment
from recovery.physical import may_copy
from recovery.pitr import usable
from recovery.server import Server, Session, exclusive, home_server, require_database, server_version
from recovery.tidying import tidy
from recovery.tools import find_tools
from recovery.wal import open_archive
from recovery.wal_waiting import archives_here, wait_for_segment

log = logging.getLogger(__name__)
FOLDER = "cross"
JETSTREAM = "jetstream"


def back_up_cross(copy: bool = False) -> Backup:
    """Make one cross-system backup; return it, complete, each of its snapshots proved.

    The server's side is the newest base or incremental backup that its archive leads on from; `copy`, or where there is
    none, makes one first. Raises Busy, Refused (no WAL archive, a privilege is missing), NotInStep, SnapshotFailed,
    Unreachable: then an entry `failed` says why, no files are left, and the bridge goes on. Safe twice and when killed.
    """
    server = home_server()
    if copy or find_base(server) is None:
        make_base()
    with exclusive(server) as session:
        require_database(server, session)
        backups = tidy()
        parent = require_base(session, backups)
        backup = begin(server, session, parent)
        require_space(backup, [other for other in backups if other.kind == Backup.Kind.CROSS_SYSTEM])
        with failure_noted(backup):
            make(backup, parent, backups, server, session)
        log.info("%s: %s bytes", backup, backup.size_bytes)
    return backup


def plan_steps(copy: bool = False) -> list[dict[str, str]]:
    """Return what `back_up_cross` would do. Changes nothing."""
    server = home_server()
    base = None if copy else find_base(server)
    first = (
        ("use", str(base.pk), f"the newest {base.kind} backup that the WAL archive leads on from")
        if base
        else ("make", "a base or incremental backup", "while everything runs")
    )
    kept = keepings()
    steps = [
        first,
        *((k.how.value, k.stream, k.why) for k in kept if k.is_fenced),
        ("mark", "both", "a named restore point, the last sequence of each stream; then the fence is over"),
        *((k.how.value, k.stream, k.why) for k in kept if not k.is_fenced),
        ("prove", "every snapshot", "restored into a throw-away nats-server and compared"),
        ("write", manifest.NAME, "last: without it this is no backup"),
    ]
    return [dict(zip(("action", "object", "why"), step, strict=True)) for step in steps]


# -- PostgreSQL's side --------------------------------------------------------------------------------------
def find_base(server: Server) -> Backup | None:
    """Return the backup that the newest WAL leads on from; None where there is none."""
    with server.connect_anywhere() as session:
        return choose_base(session, catalogue.load_all()[0])


def choose_base(session: Session, backups: list[Backup]) -> Backup | None:
    row = session.execute(
        "SELECT system_identifier::text, substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8) FROM pg_control_system()"
    ).fetchone()
    identifier, timeline = row[0], int(row[1], 16)  # type: ignore[index]
    for found in usable(backups):
        if found.system_identifier == identifier and found.timeline == timeline and not found.has_wal:
            try:
                chain_of(found, backups)
            except Damaged:
                continue
            return found
    return None


def make_base() -> None:
    if why := may_copy():
        raise Refused(f"no base backup can be made: {why}", "a cross-system backup needs one")
    back_up_changes()


def require_base(session: Session, backups: list[Backup]) -> Backup:
    """Return the backup to build on. Raises Refused where the server's WAL is not archived here."""
    base = choose_base(session, backups)
    if base is None or not archives_here(session, open_archive(), base):
        raise Refused(
            "the server does not archive its WAL here: nothing would lead to the moment",
            "switch the archive on: `manage.py backup archive` prints how",
        )
    return base


def begin(server: Server, session: Session, parent: Backup) -> Backup:
    """Return the entry of the backup that is about to be made; it is not saved yet."""
    backup = Backup(
        kind=Backup.Kind.CROSS_SYSTEM,
        database_name=server.database,
        server_version=server_version(session),
        tool_version=find_tools(session.info.server_version // 10000).version,
        database_bytes=0,
        parent_id=parent.pk,
        system_identifier=parent.system_identifier,
        timeline=parent.timeline,
        start_lsn=parent.start_lsn,
    )
    backup.location = f"{FOLDER}/{backup.started_at:%Y%m%dT%H%M%SZ}-{backup.pk}"
    return backup


def point_of(backup: Backup) -> str:
    """Return the name of the backup's restore point (at most 63 characters)."""
    return f"xs_{backup.pk}"


# -- making -------------------------------------------------------------------------------------------------
def make(backup: Backup, parent: Backup, backups: list[Backup], server: Server, session: Session) -> None:
    folder = catalogue.partial_of(backup)
    (folder / JETSTREAM).mkdir(mode=0o700, parents=True)
    kept = keepings()
    moment = take_moment(server, point_of(backup), kept, folder / JETSTREAM)
    take_growing(kept, folder / JETSTREAM, moment)
    sync_snapshots(moment.snapshots)
    prove_all(moment.snapshots, folder)
    archive_moment(session, moment)
    backup.end_lsn, completed_at = moment.lsn, max(timezone.now(), backup.started_at)
    backup.database_bytes = sum(int(snapshot.state["bytes"]) for snapshot in moment.snapshots)
    body = cross_manifest.describe_cross(backup, chain_of(parent, backups), kept, moment, completed_at)
    backup.manifest_sha256 = cross_manifest.write(folder, body)
    backup.size_bytes = manifest.size_of(folder)
    session.execute("SELECT 1")  # the lock is ours until here, or this fails
    publish(folder, catalogue.folder_of(backup))
    backup.status, backup.completed_at = Status.COMPLETE, completed_at
    catalogue.save(backup)


def archive_moment(session: Session, moment: Moment) -> None:
    """Finish the WAL segment that holds the restore point, and wait until it is archived."""
    name = session.execute("SELECT pg_walfile_name(('0/0'::pg_lsn + %s) - 1)", [moment.lsn]).fetchone()[0]  # type: ignore[index]
    session.execute("SELECT pg_switch_wal()")
    wait_for_segment(open_archive(), name)
