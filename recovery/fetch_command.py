"""The verb `manage.py backup fetch`, and what restores fetch by themselves."""

from collections.abc import Callable
from datetime import datetime
from typing import Any

from operators.audit import Actor, record
from operators.command import Answer, OperatorCommand
from pg.errors import Refused
from recovery import catalogue
from recovery.fetch import Fetched, fetch
from recovery.fetch_plan import Plan, plan_fetch
from recovery.models import Backup
from recovery.source import open_source
from recovery.store_retention import spare
from recovery.stored import find_stored

ALLOW_PLAIN = "take what is not encrypted although there are keys"


def add_fetch_verb(command: OperatorCommand) -> None:
    parser = command.add_verb(
        "fetch", run_fetch, "bring a backup and its WAL back from the store; works without the database"
    )
    parser.add_argument(
        "backup_id", nargs="?", default="", help="or its beginning (default: the newest of the server)"
    )
    parser.add_argument("--before", help="the newest that ended before this time: 2026-11-23T10:30:00+00:00")
    parser.add_argument("--list", action="store_true", help="show what the store has")
    parser.add_argument("--dry-run", action="store_true", help="print the plan only")
    parser.add_argument("--no-wal", action="store_true", help="the backup only")
    parser.add_argument("--allow-plain", action="store_true", help=ALLOW_PLAIN)
    parser.add_argument("--reason", default="by hand", help="kept in the audit")


def run_fetch(backup_id: str, allow_plain: bool, reason: str, **options: Any) -> Answer:
    if options["list"]:
        return list_stored(allow_plain)
    plan = plan_fetch(backup_id, moment_of(options["before"]), allow_plain, with_wal=not options["no_wal"])
    answer = Answer(steps=plan.steps, warnings=plan.warnings, counts={"needed_mb": plan.needed_bytes >> 20})
    if not options["dry_run"]:
        done = fetch(plan)
        answer.counts |= counts_of(done)
        answer.warnings += remember(done.backups, reason)
    return answer


def counts_of(done: Fetched) -> dict[str, int]:
    return {"backups": len(done.backups), "wal_files": done.wal}


def bring(plan: Plan | None, reason: str) -> Answer:
    """Fetch what a restore needs; return the steps, counts and warnings that its own answer begins with."""
    if plan is None:
        return Answer()
    if not plan.is_something:
        return Answer(warnings=plan.warnings)
    done = fetch(plan)
    counts = {f"fetched_{name}": number for name, number in counts_of(done).items()}
    return Answer(steps=plan.steps, counts=counts, warnings=[*plan.warnings, *remember(done.backups, reason)])


def bring_all(
    need_of: Callable[[], Plan | None], reason: str, require: Callable[[Plan], None] = lambda need: None
) -> Answer:
    """Fetch what is needed, and ask again until that is nothing: what is here by then may tell of more. `require` may
    refuse a plan before it is carried out."""
    answer = Answer(steps=[])
    while (need := need_of()) is not None:
        require(need)
        done = bring(need, reason)
        answer.steps = [*(answer.steps or ()), *(done.steps or ())]
        answer.counts |= {name: answer.counts.get(name, 0) + number for name, number in done.counts.items()}
        answer.warnings += [warning for warning in done.warnings if warning not in answer.warnings]
        if not need.is_something:
            break
    return answer


def remember(backups: list[Backup], reason: str) -> list[str]:
    """Put it into the audit and take the doom back; return a warning where there is no database for that."""
    try:
        for backup in backups:
            spare(backup.pk)
        if backups:
            record(Actor.of_command(), "recovery.fetch", [backup.pk for backup in backups], reason=reason)
    except Exception as error:  # on the bad day there is no database: what was fetched is here all the same
        return [f"not in the audit: {str(error).strip()}"]
    return []


def moment_of(text: str | None) -> datetime | None:
    if text is None:
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise Refused(f"{text}: not a time", "write 2026-11-23T10:30:00+00:00") from error
    if moment.tzinfo is None:
        raise Refused(f"{text}: which time zone?", f"write {text}+00:00 for UTC")
    return moment


def list_stored(allow_plain: bool) -> Answer:
    found, warnings = find_stored(open_source(allow_plain))
    items = [
        {
            "backup_id": one.backup.pk,
            "kind": str(one.backup.kind),
            "started_at": f"{one.backup.started_at:%Y-%m-%d %H:%M:%S}",
            "parts": len(one.index.parts),
            "stored_bytes": one.size_bytes,
            "key": ", ".join(sorted({part.key_id for part in one.index.parts if part.key_id})) or None,
            "builds_on": one.backup.parent_id,
            "here": "yes" if catalogue.is_stored(one.backup) else "",
        }
        for one in found
    ]
    return Answer(items=items, counts={"backups": len(items)}, warnings=warnings, ok=not warnings)
