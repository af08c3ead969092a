"""Carry a recovery plan out: copy, replay, wait for the real end, prove it; then keep the data directory or not."""

import json
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import psycopg
from django.utils import timezone

from pg import account
from pg.errors import Refused
from recovery import catalogue, manifest
from recovery.archiving import find_interpreter, restore_command
from recovery.cluster import Cluster, ask_for_archiving, end_of_recovery
from recovery.contents import summarise
from recovery.errors import Damaged, NoSpace, RestoreFailed, TargetInUse
from recovery.examining import examine
from recovery.materialising import give_to_server, materialise, runnable
from recovery.pitr import Recovery
from recovery.proof import Proof
from recovery.server import home_server
from recovery.wal import lsn_text
from recovery.wal_archive import __file__ as ARCHIVE_PROGRAM

REPLAY_SECONDS = 6 * 3600


def recover(plan: Recovery, directory: Path, replace: bool = False) -> Proof:
    """Restore into `directory`, which must not exist or be empty; return the proof. The server there is stopped.

    With `replace` a data directory that no server runs on is moved aside to `<directory>.before-<time>`, at the very
    end. Raises TargetInUse, NoSpace, Refused, Damaged, RestoreFailed: then nothing is left of the attempt. Problems
    in the proof do not remove what was restored: a person decides.
    """
    require_free(directory, replace)
    partial = directory.with_name(f".partial-{directory.name}")
    with recovered(plan, partial) as (cluster, proof):
        proof.time("checks", lambda: examine(cluster, home_server().database, proof))
        hold_bridge(plan, cluster, proof)
    ask_for_archiving(cluster)  # before it has its name: whoever starts it finds all in order
    if directory.exists() and any(directory.iterdir()):
        directory.rename(directory.with_name(f"{directory.name}.before-{timezone.now():%Y%m%dT%H%M%SZ}"))
    partial.rename(directory)
    manifest.sync_folder(directory.parent)
    return proof


def hold_bridge(plan: Recovery, cluster: Cluster, proof: Proof) -> None:
    """Keep the restored server's bridge still until JetStream is brought to the same moment (see bridge.hold)."""
    last = proof.last_commit_at
    details = {
        "kind": plan.target.kind, "value": plan.target.value, "lsn": proof.reached_lsn, "timeline": proof.timeline,
        "last_commit_at": last.isoformat() if last else None,
    }  # fmt: skip
    with (
        suppress(psycopg.errors.UndefinedTable, psycopg.errors.InvalidSchemaName),
        cluster.server.connect(home_server().database) as session,
    ):
        session.execute(
            "INSERT INTO bridge.hold (reason, details) VALUES (%s, %s)"
            " ON CONFLICT (hold_id) DO UPDATE SET reason = EXCLUDED.reason, details = EXCLUDED.details, since = now()",
            [f"PostgreSQL was restored to {plan.target}", json.dumps(details)],
        )


def require_free(directory: Path, replace: bool) -> None:
    """Raise TargetInUse for a folder with anything in it that may not be replaced, Refused for a wrong place."""
    if not directory.parent.is_dir():
        raise Refused(
            f"{directory.parent} does not exist", "make it, owned by the user that PostgreSQL runs as"
        )
    user = account.server_user()
    if user and not account.can_execute(account.ensure_user(user), directory.parent):
        raise Refused(
            f"user {user}, which PostgreSQL runs as, may not enter {directory.parent}", "choose another place"
        )
    if not directory.exists() or not any(directory.iterdir()):
        return
    if (directory / "postmaster.pid").exists() or not (directory / "PG_VERSION").is_file():
        raise TargetInUse(f"{directory}: a server runs on it, or it is no data directory: it is left as it is",
                          "stop the server first, or restore into a new directory")  # fmt: skip
    if not replace:
        raise TargetInUse(f"{directory} is a data directory: it is left as it is",
                          "restore into a new directory; or move it aside by --replace")  # fmt: skip


@contextmanager
def recovered(plan: Recovery, data: Path, sync: bool = True) -> Iterator[tuple[Cluster, Proof]]:
    """Make `data` and yield the promoted server over it, with a proof that has the way there; then stop it.

    When anything fails, `data` is removed. Backups in the plan are kept from pruning meanwhile.
    """
    proof = Proof()
    require_room(plan, data.parent)
    shutil.rmtree(data, ignore_errors=True)
    try:
        with ExitStack() as stack:
            for backup in plan.chain:
                if not stack.enter_context(catalogue.in_use(catalogue.folder_of(backup))):
                    raise Refused(f"backup {backup.pk} is being pruned", "choose another one")
            proof.time("files", lambda: require_whole(plan))
            proof.time("copy", lambda: materialise(plan.chain, data, plan.tools, sync))
            cluster = prepare(plan, data, sync)
            stack.callback(cluster.stop)
            proof.time("replay", lambda: bring_up(cluster))
            read_end(plan, cluster, proof)
            yield cluster, proof
    except BaseException:
        shutil.rmtree(data, ignore_errors=True)
        raise
    finally:
        data.with_name(f"{data.name}.log").unlink(missing_ok=True)


def require_room(plan: Recovery, place: Path) -> None:
    free = shutil.disk_usage(place).free
    if free < plan.needed_bytes:
        raise NoSpace(
            f"{place} has {free >> 20} MB free, the restore may need {plan.needed_bytes >> 20} MB",
            "free some room, or restore to a larger disk",
        )


def require_whole(plan: Recovery) -> None:
    """Raise Damaged when a file of the chain is not what was written."""
    for backup in plan.chain:
        if problems := manifest.check_files(catalogue.folder_of(backup), backup.manifest_sha256):
            raise Damaged(f"backup {backup.pk}: {summarise(problems[:5])}", "choose another one")


def prepare(plan: Recovery, data: Path, sync: bool) -> Cluster:
    """Write recovery.signal, and return the server that will replay."""
    (data / "recovery.signal").touch()
    (data / "standby.signal").unlink(missing_ok=True)
    give_to_server(data / "recovery.signal")
    settings = {**plan.settings, "restore_command": fetch_command(plan), "fsync": "on" if sync else "off"}
    role = home_server().parameters.get("user", "postgres")
    return Cluster(data, runnable(plan.tools), settings, role)


def fetch_command(plan: Recovery) -> str:
    """Return restore_command; a backup with its own WAL needs none, but PostgreSQL wants one."""
    if plan.backup.has_wal and not plan.segments:
        return "/bin/false"
    place, program = plan.archive.place, plan.archive.place / "bin" / Path(ARCHIVE_PROGRAM).name
    if not program.is_file():
        raise Damaged(f"{program} is missing", "run `manage.py backup archive` to put it there again")
    return restore_command(place, find_interpreter(program, account.server_user()))


def bring_up(cluster: Cluster) -> None:
    cluster.start()
    cluster.wait_promoted(REPLAY_SECONDS)


def read_end(plan: Recovery, cluster: Cluster, proof: Proof) -> None:
    """Fill in where the replay stopped; raise RestoreFailed when that is not where it should have."""
    proof.timeline, proof.reached_lsn, proof.why = end_of_recovery(cluster.data)
    with cluster.server.connect("postgres") as session:
        proof.last_commit_at = session.execute("SELECT pg_last_xact_replay_timestamp()").fetchone()[0]  # type: ignore[index]
    if plan.stop_lsn is not None and proof.reached_lsn < plan.stop_lsn:
        raise RestoreFailed(
            f"stopped at {lsn_text(proof.reached_lsn)}, the target was {lsn_text(plan.stop_lsn)}"
        )
    if plan.target.kind == "time" and proof.last_commit_at and proof.last_commit_at > plan.target.moment:
        raise RestoreFailed(
            f"replayed a commit of {proof.last_commit_at}, the target was {plan.target.moment}"
        )
