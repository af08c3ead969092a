"""manage.py audit: list, verify, export, jobs, stop_job."""

import json
import sys
from argparse import ArgumentParser
from datetime import datetime
from pathlib import Path
from typing import Any

from django.core.serializers.json import DjangoJSONEncoder
from django.db.models import QuerySet
from django.utils.dateparse import parse_datetime
from django.utils.timezone import is_naive

from operators.audit import Actor, require_reason, verify_entries
from operators.bulk import cancel_bulk
from operators.command import Answer, OperatorCommand
from operators.models import AuditEntry, BulkJob
from pg.errors import Refused

COLUMNS = (
    "entry_id",
    "recorded_at",
    "actor",
    "via",
    "address",
    "action",
    "objects_touched",
    "object_count",
    "reason",
    "details",
)


class Command(OperatorCommand):
    help = "Who did what, and why; actions on many rows."

    def add_verbs(self) -> None:
        parser = self.add_verb("list", list_entries, "show entries, newest first")
        add_filters(parser)
        parser.add_argument("--limit", type=int, default=50)
        self.add_verb("verify", verify, "follow the chain of seals: was an entry changed or removed?")
        parser = self.add_verb("export", export, "write entries as JSON lines, oldest first")
        add_filters(parser)
        parser.add_argument(
            "--to", required=True, help="a file that does not exist yet, or - for standard output"
        )
        parser = self.add_verb("jobs", list_jobs, "show bulk jobs, newest first")
        parser.add_argument(
            "--status", choices=[value for value, _ in BulkJob._meta.get_field("status").choices or ()]
        )
        parser.add_argument("--limit", type=int, default=50)
        parser = self.add_verb("stop_job", stop_job, "stop a bulk job before its next batch")
        parser.add_argument("job_id", type=int)
        parser.add_argument("--reason", required=True)


def add_filters(parser: ArgumentParser) -> None:
    parser.add_argument("--actor")
    parser.add_argument("--action", help='"<room>.<verb>", for instance tasks.cancel')
    parser.add_argument("--object", help="the id of what was touched")
    parser.add_argument("--since", help="a time with its zone, for instance 2026-03-01T00:00:00Z")


def select(
    actor: str | None, action: str | None, object: str | None, since: str | None
) -> QuerySet[AuditEntry]:
    entries = AuditEntry.objects.all()
    if actor:
        entries = entries.filter(actor=actor)
    if action:
        entries = entries.filter(action=action)
    if object:
        entries = entries.filter(objects_touched__contains=[object])
    return entries.filter(recorded_at__gte=moment_of(since)) if since else entries


def moment_of(text: str) -> datetime:
    try:
        moment = parse_datetime(text)
    except ValueError:
        moment = None
    if moment is None or is_naive(moment):
        raise Refused(f"--since {text}: not a time with its zone", "for instance 2026-03-01T00:00:00Z")
    return moment


def list_entries(limit: int, actor: Any, action: Any, object: Any, since: Any, **_: Any) -> Answer:
    entries = select(actor, action, object, since).order_by("-entry_id")[: max(limit, 0)]
    items = list(entries.values(*COLUMNS))
    return Answer(items=items, counts={"entries": len(items)})


def verify(**_: Any) -> Answer:
    found = verify_entries()
    items = [{"seal": one.seal_number, "entry": one.entry_id, "problem": one.problem} for one in found.breaks]
    warnings = (
        [f"{found.overdue} entries were not sealed for an hour: does beat run?"] if found.overdue else []
    )
    return Answer(
        items=items or [{"head": found.head or "no seal yet"}],
        counts={"sealed": found.sealed, "unsealed": found.unsealed, "broken": len(found.breaks)},
        warnings=warnings,
        ok=found.is_whole,
    )


def export(to: str, actor: Any, action: Any, object: Any, since: Any, **_: Any) -> Answer:
    """Each line also carries its seal. Entries are read in chunks."""
    entries = select(actor, action, object, since).order_by("entry_id")
    lines = (line_of(entry) for entry in entries.iterator(1_000))
    if to == "-":
        sys.stdout.writelines(lines)
        return Answer()
    path = Path(to)
    if path.exists():
        raise Refused(f"{path} exists", "name a file that does not exist yet")
    with path.open("x", encoding="utf-8") as out:
        count = sum(bool(out.write(line)) for line in lines)
    return Answer(items=[{"file": str(path)}], counts={"entries": count})


def line_of(entry: AuditEntry) -> str:
    body = {name: getattr(entry, name) for name in COLUMNS}
    body |= {"seal_number": entry.seal_number, "seal": bytes(entry.seal).hex() if entry.seal else None}
    return json.dumps(body, cls=DjangoJSONEncoder) + "\n"


def list_jobs(status: str | None, limit: int, **_: Any) -> Answer:
    jobs = BulkJob.objects.filter(status=status) if status else BulkJob.objects.all()
    names = (
        "job_id",
        "created_at",
        "action",
        "status",
        "done",
        "failed",
        "expected",
        "requested_by",
        "reason",
        "error",
    )
    items = list(jobs.order_by("-job_id").values(*names)[: max(limit, 0)])
    return Answer(items=items, counts={"jobs": len(items)})


def stop_job(job_id: int, reason: str, **_: Any) -> Answer:
    job = cancel_bulk(job_id, by=Actor.of_command(), reason=require_reason(reason))
    return Answer(items=[{"job_id": job.pk, "status": job.status, "done": job.done}])
