"""manage.py backup: logical, daily, list, check, verify, pin, prune, restore."""

from typing import Any

from django.utils import timezone

from operators.command import Answer, OperatorCommand
from recovery import catalogue, manifest
from recovery.catalogue import Status
from recovery.daily import run_daily
from recovery.logical import back_up
from recovery.models import Backup
from recovery.prune import plan_prune, prune
from recovery.restore import plan_restore, restore
from recovery.retention import Step
from recovery.server import exclusive, home_server
from recovery.verify import Verdict, verify


class Command(OperatorCommand):
    help = "Make, prove, list, remove and restore backups of the database."

    def add_verbs(self) -> None:
        parser = self.add_verb("logical", run_logical, "make a logical backup")
        parser.add_argument("--jobs", type=int, help="tables dumped at once (default: CPU cores, at most 4)")
        self.add_verb("daily", run_day, "back up, verify, prune: what beat runs each night")
        parser = self.add_verb("list", list_backups, "show backups, newest first; works without the database")
        parser.add_argument("--status", choices=Status.values)
        parser.add_argument("--limit", type=int, default=100)
        parser = self.add_verb("check", check, "compare every file with its manifest, without restoring")
        add_backups(parser, "all finished ones")
        parser = self.add_verb("verify", run_verify, "restore into a scratch database and compare everything")
        parser.add_argument("backup_id", nargs="?", default="", help="or its beginning (default: the newest)")
        parser = self.add_verb("pin", pin, "keep backups from being pruned")
        parser.add_argument("backup_ids", nargs="+", metavar="backup_id")
        parser.add_argument("--off", action="store_true", help="let them be pruned again")
        parser = self.add_verb("prune", run_prune, "remove what is out of retention")
        parser.add_argument("--dry-run", action="store_true", help="print the plan only")
        parser = self.add_verb("restore", run_restore, "restore a backup into a new or empty database")
        parser.add_argument("backup_id", nargs="?", default=catalogue.NEWEST,
                            help="or its beginning (default: newest, the newest verified one)")  # fmt: skip
        parser.add_argument("--target-database", required=True, metavar="NAME")
        parser.add_argument("--dry-run", action="store_true", help="print the plan only")


def add_backups(parser: Any, default: str) -> None:
    parser.add_argument("backup_ids", nargs="*", metavar="backup_id", help=f"(default: {default})")


def row_of(backup: Backup) -> dict[str, Any]:
    """`verified_at` None: never restored and compared. The error comes last: it is long."""
    return {
        "backup_id": backup.pk,
        "kind": str(backup.kind),
        "status": str(backup.status),
        "started_at": f"{backup.started_at:%Y-%m-%d %H:%M:%S}",
        "verified_at": f"{backup.verified_at:%Y-%m-%d %H:%M:%S}" if backup.verified_at else None,
        "size_bytes": backup.size_bytes,
        "pinned": "yes" if backup.is_pinned else "",
        "database": backup.database_name,
        "error": backup.error,
    }


def run_logical(jobs: int | None, **_: Any) -> Answer:
    backup = back_up(jobs)
    counts = {"tables": len(backup.row_counts), "rows": sum(backup.row_counts.values())}
    return Answer(items=[row_of(backup)], counts=counts)


def run_day(**_: Any) -> Answer:
    day = run_daily()
    answer = answer_of(day.verdict)
    answer.steps = [as_step(step) for step in day.steps if step.action != "keep"]
    return answer


def answer_of(verdict: Verdict) -> Answer:
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


def list_backups(status: str | None, limit: int, **_: Any) -> Answer:
    backups, warnings = catalogue.load_all()
    shown = [backup for backup in backups if status in (None, backup.status)][:limit]
    return Answer(
        items=[row_of(backup) for backup in shown],
        counts={"shown": len(shown), "bytes": sum(backup.size_bytes or 0 for backup in shown)},
        warnings=warnings,
    )


def check(backup_ids: list[str], **_: Any) -> Answer:
    """Files only: nothing is changed, also not the catalogue."""
    if backup_ids:
        backups = [catalogue.find(wanted)[0] for wanted in backup_ids]
    else:
        backups = [found for found in catalogue.load_all()[0] if found.completed_at is not None]
    found = [
        (backup, manifest.check_files(catalogue.folder_of(backup), backup.manifest_sha256))
        for backup in backups
    ]
    problems = [f"{backup.pk}: {problem}" for backup, texts in found for problem in texts]
    return Answer(
        items=[{"backup_id": backup.pk, "files": "damaged" if texts else "whole"} for backup, texts in found],
        counts={"checked": len(found), "problems": len(problems)},
        warnings=problems,
        ok=not problems,
    )


def run_verify(backup_id: str, **_: Any) -> Answer:
    return answer_of(verify(backup_id))


def pin(backup_ids: list[str], off: bool, **_: Any) -> Answer:
    with exclusive(home_server()):
        backups = [catalogue.find(wanted)[0] for wanted in backup_ids]
        for backup in backups:
            backup.is_pinned = not off
            catalogue.save(backup)
    return Answer(items=[row_of(backup) for backup in backups])


def as_step(step: Step) -> dict[str, str]:
    return {"action": step.action, "object": str(step.backup_id), "why": step.why}


def run_prune(dry_run: bool, **_: Any) -> Answer:
    """Print why for each backup, also for those that stay."""
    steps = plan_prune(timezone.now()) if dry_run else prune(timezone.now())
    gone = sum(step.action != "keep" for step in steps)
    name = "to_remove" if dry_run else "removed"
    return Answer(steps=[as_step(step) for step in steps], counts={name: gone, "kept": len(steps) - gone})


def run_restore(backup_id: str, target_database: str, dry_run: bool, **_: Any) -> Answer:
    plan = plan_restore(backup_id, target_database)
    problems = [] if dry_run else restore(plan)
    return Answer(
        steps=plan.steps,
        counts={"problems": len(problems)},
        warnings=plan.warnings + problems,
        ok=not problems,
    )
