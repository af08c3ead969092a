"""manage.py backup: make, list, prove, prune and restore backups, and look after the WAL archive."""

from pathlib import Path
from typing import Any

from django.conf import settings
from django.utils import timezone

from operators.audit import Actor
from operators.command import Answer, OperatorCommand
from pg import account
from pg.errors import Refused
from recovery import archiving, catalogue, manifest
from recovery.catalogue import Status
from recovery.continuity import look_at_archive
from recovery.cross_command import add_cross_verbs
from recovery.cross_drill import run_cross_drill
from recovery.cross_manifest import check_cross
from recovery.daily import Day, run_daily, run_weekly
from recovery.drill import run_drill
from recovery.drill_results import Drill
from recovery.logical import back_up
from recovery.models import Backup
from recovery.noting import note
from recovery.orders import pin
from recovery.partial_command import add_partial_verbs, answer_of_partial
from recovery.partial_drill import run_partial_drill
from recovery.physical import Options, back_up_server, default_options
from recovery.proving import prove
from recovery.prune import plan_prune, plan_wal_prune, prune
from recovery.restore_command import add_reason, add_restore_verb, add_target, answer_of_proof, target_of
from recovery.retention import Step
from recovery.rows import row_of
from recovery.store_verbs import add_store_verbs
from recovery.target import Target
from recovery.verify import Verdict
from recovery.wal import lsn_text


class Command(OperatorCommand):
    help = "Make, prove, list, remove and restore backups of the database and of the whole server."

    def add_verbs(self) -> None:
        parser = self.add_verb("logical", run_logical, "make a logical backup of the database")
        parser.add_argument("--jobs", type=int, help="tables dumped at once (default: CPU cores, at most 4)")
        add_copy_options(self.add_verb("base", run_base, "make a base backup of the whole server"))
        add_copy_options(
            self.add_verb("incremental", run_incremental, "make one of what changed since the newest")
        )
        self.add_verb("daily", run_day, "logical and incremental, verify, prune: what beat runs each night")
        self.add_verb("weekly", run_week, "logical and base, verify, drill, prune: what beat runs each week")
        parser = self.add_verb("list", list_backups, "show backups, newest first; works without the database")
        parser.add_argument("--status", choices=Status.values)
        parser.add_argument("--kind", choices=Backup.Kind.values)
        parser.add_argument("--limit", type=int, default=100)
        parser = self.add_verb("check", check, "compare every file with its manifest, without restoring")
        add_backups(parser, "all finished ones")
        parser = self.add_verb(
            "verify", run_verify, "restore into a scratch database or server and compare everything"
        )
        parser.add_argument("backup_id", nargs="?", default="", help="or its beginning (default: the newest)")
        parser = self.add_verb("drill", drill, "restore into a scratch server, check it, measure RPO and RTO")
        parser.add_argument(
            "backup_id", nargs="?", default="", help="(default: the newest that reaches the target)"
        )
        add_target(parser)
        parser.add_argument("--cross", action="store_true", help="both systems, from a cross-system backup")
        parser.add_argument("--partial", action="store_true", help="one table, into staging tables")
        add_reason(parser)
        parser = self.add_verb("pin", run_pin, "keep backups from being pruned")
        parser.add_argument("backup_ids", nargs="+", metavar="backup_id")
        parser.add_argument("--off", action="store_true", help="let them be pruned again")
        parser.add_argument("--reason", default="by hand", help="kept in the audit")
        parser = self.add_verb("prune", run_prune, "remove what is out of retention")
        parser.add_argument("--dry-run", action="store_true", help="print the plan only")
        parser.add_argument("--force", action="store_true", help="also when unusually many would go")
        add_reason(parser)
        add_restore_verb(self)
        add_cross_verbs(self)
        add_partial_verbs(self)
        add_store_verbs(self)
        parser = self.add_verb("wal", show_wal, "look for gaps and damage in the WAL archive")
        parser.add_argument("--all", action="store_true", help="read every segment again")
        parser = self.add_verb(
            "archive", set_up_archive, "make the archive; print the settings that switch it on"
        )
        parser.add_argument(
            "--level", type=int, default=1, choices=range(10), metavar="0..9", help="compression"
        )


def add_backups(parser: Any, default: str) -> None:
    parser.add_argument("backup_ids", nargs="*", metavar="backup_id", help=f"(default: {default})")


def add_copy_options(parser: Any) -> None:
    parser.add_argument(
        "--rate-mb", type=int, help="MB per second, 0 for no limit (MISTERSMITH_BACKUP_RATE_MB)"
    )
    parser.add_argument("--compress", help="pg_basebackup's --compress, for instance server-gzip:1")
    parser.add_argument("--checkpoint", choices=("fast", "spread"), default="fast")


# -- making -------------------------------------------------------------------------------------------------
def run_logical(jobs: int | None, **_: Any) -> Answer:
    backup = back_up(jobs)
    counts = {"tables": len(backup.row_counts), "rows": sum(backup.row_counts.values())}
    return Answer(items=[row_of(backup)], counts=counts)


def run_base(**options: Any) -> Answer:
    return Answer(items=[row_of(back_up_server(options=options_of(options)))])


def run_incremental(**options: Any) -> Answer:
    return Answer(items=[row_of(back_up_server(incremental=True, options=options_of(options)))])


def options_of(options: dict[str, Any]) -> Options:
    usual = default_options()
    rate_mb, compress = options["rate_mb"], options["compress"]
    return Options(
        usual.rate_mb if rate_mb is None else rate_mb,
        usual.compress if compress is None else compress,
        options["checkpoint"],
    )


def run_day(**_: Any) -> Answer:
    return answer_of_day(run_daily())


def run_week(**_: Any) -> Answer:
    return answer_of_day(run_weekly())


def answer_of_day(day: Day) -> Answer:
    answer = answer_of(day.verdict)
    if day.drill is not None:
        drilled = answer_of(day.drill)
        answer.items, answer.ok = answer.items + drilled.items, answer.ok and drilled.ok
        answer.warnings += drilled.warnings
    elif day.server is not None:
        answer.items.append(row_of(day.server))
    answer.warnings += day.warnings
    answer.steps = [as_step(step) for step in day.steps if step.action != "keep"]
    return answer


def answer_of(verdict: Verdict | Drill) -> Answer:
    if isinstance(verdict, Drill):
        return answer_of_drill(verdict)
    milliseconds = {f"{step}_ms": int(seconds * 1000) for step, seconds in verdict.seconds.items()}
    return Answer(
        items=[row_of(verdict.backup)],
        counts={
            "tables": verdict.tables,
            "rows": verdict.rows,
            "problems": len(verdict.problems),
            **milliseconds,
        },
        warnings=verdict.problems,
        ok=not verdict.problems,
    )


def answer_of_drill(drill: Drill) -> Answer:
    answer = answer_of_proof(drill.proof)
    answer.items = [row_of(drill.backup)]
    if drill.rpo_seconds is not None:
        answer.counts["rpo_ms"] = int(drill.rpo_seconds * 1000)
    answer.counts["problems"] = len(drill.problems)
    answer.warnings, answer.ok = drill.problems + drill.proof.notes, not drill.problems
    return answer


def list_backups(status: str | None, kind: str | None, limit: int, **_: Any) -> Answer:
    backups, warnings = catalogue.load_all()
    fit = [found for found in backups if status in (None, found.status) and kind in (None, found.kind)]
    shown = fit[:limit]
    return Answer(
        items=[row_of(backup) for backup in shown],
        counts={"shown": len(shown), "bytes": sum(backup.size_bytes or 0 for backup in shown)},
        warnings=warnings,
    )


# -- proving ------------------------------------------------------------------------------------------------
def check(backup_ids: list[str], **_: Any) -> Answer:
    """Files only: nothing is changed, also not the catalogue."""
    if backup_ids:
        backups = [catalogue.find(wanted)[0] for wanted in backup_ids]
    else:
        backups = [found for found in catalogue.load_all()[0] if found.completed_at is not None]
    found = [(backup, check_files_of(backup)) for backup in backups]
    problems = [f"{backup.pk}: {problem}" for backup, texts in found for problem in texts]
    return Answer(
        items=[{"backup_id": backup.pk, "files": "damaged" if texts else "whole"} for backup, texts in found],
        counts={"checked": len(found), "problems": len(problems)},
        warnings=problems,
        ok=not problems,
    )


def check_files_of(backup: Backup) -> list[str]:
    if backup.kind == Backup.Kind.CROSS_SYSTEM:
        return check_cross(backup)
    return manifest.check_files(catalogue.folder_of(backup), backup.manifest_sha256)


def run_verify(backup_id: str, **_: Any) -> Answer:
    return answer_of(prove(backup_id))


def drill(backup_id: str, cross: bool, reason: str, **options: Any) -> Answer:
    target = target_of(options)
    if options["partial"]:
        note("drill", [backup_id or "newest"], reason, partial=True)
        return answer_of_partial(run_partial_drill(backup_id))
    if cross and target != Target():
        raise Refused("a cross-system backup has one moment", "leave the target out, or --cross")
    note("drill", [backup_id or "newest"], reason, cross=cross, target=str(target))
    return answer_of(run_cross_drill(backup_id) if cross else run_drill(backup_id, target))


def show_wal(all: bool, **_: Any) -> Answer:
    look = look_at_archive(read_all=all)
    item = {
        "archive": str(look.archive.place / "wal"),
        "system_identifier": look.archive.system_identifier or None,
        "timeline": look.timeline or None,
        "archived_to": lsn_text(look.archived_lsn) if look.archived_lsn else None,
        "last_commit_at": look.last_commit_at.isoformat() if look.last_commit_at else None,
    }
    return Answer(
        items=[item],
        counts={"needed": look.needed, "read": look.read, "problems": len(look.problems)},
        warnings=look.problems,
        ok=not look.problems,
    )


# -- keeping ------------------------------------------------------------------------------------------------
def run_pin(backup_ids: list[str], off: bool, reason: str, **_: Any) -> Answer:
    backups = [catalogue.find(wanted)[0] for wanted in backup_ids]
    return Answer(items=[row_of(backup) for backup in pin(backups, Actor.of_command(), reason, off)])


def as_step(step: Step) -> dict[str, str]:
    return {"action": step.action, "object": str(step.backup_id), "why": step.why}


def run_prune(dry_run: bool, force: bool, reason: str, **_: Any) -> Answer:
    """Print why for each backup, also for those that stay."""
    now = timezone.now()
    segments = len(plan_wal_prune(now)) if dry_run else 0
    steps = plan_prune(now) if dry_run else prune(now, force)
    gone = sum(step.action != "keep" for step in steps)
    if not dry_run:
        note(
            "prune",
            [step.backup_id for step in steps if step.action != "keep"],
            reason,
            kept=len(steps) - gone,
        )
    name = "to_remove" if dry_run else "removed"
    counts = {
        name: gone,
        "kept": len(steps) - gone,
        **({"wal_segments_to_remove": segments} if segments else {}),
    }
    return Answer(steps=[as_step(step) for step in steps], counts=counts)


def set_up_archive(level: int, **_: Any) -> Answer:
    """For one's own server; `make up` does it for the embedded one."""
    user = account.server_user()
    place = archiving.prepare_archive(Path(settings.BACKUP_DIR), user)
    python = archiving.find_interpreter(place / "bin" / archiving.PROGRAM.name, user)
    wanted = {
        "archive_mode": "on",
        "archive_timeout": "60s",
        "archive_command": archiving.archive_command(place, python, level),
        "summarize_wal": "on",
    }
    lines = [
        "ALTER SYSTEM SET {} = '{}';".format(name, value.replace("'", "''")) for name, value in wanted.items()
    ]
    notes = ["archive_mode needs a restart of the server; summarize_wal exists since PostgreSQL 17"]
    return Answer(items=[{"run through psql": line} for line in lines], warnings=notes)
