"""The verbs of `manage.py backup` about what lies elsewhere: receive, upload, fetch, store, parts, key."""

import signal
from datetime import datetime
from threading import Event
from typing import Any

from django.db.models import Count, Sum
from django.utils import timezone

from operators.audit import Actor, record
from operators.command import Answer, OperatorCommand
from pg.errors import Refused
from recovery import catalogue, packing
from recovery.fetch import fetch, find_stored, open_source, plan_fetch
from recovery.models import Backup, Upload
from recovery.receiving import receive
from recovery.sealing import KEY_ID, make_key
from recovery.stocktaking import take_stock
from recovery.store_retention import spare
from recovery.stores import open_store
from recovery.upload import upload
from recovery.upload_queue import enqueue, waiting

SHOWN = 20


def add_store_verbs(command: OperatorCommand) -> None:
    command.add_verb(
        "receive", run_receive, "stream the WAL of a server that cannot run archive_command, until stopped"
    )
    parser = command.add_verb("upload", run_upload, "send what waits to the store; beat does it each minute")
    parser.add_argument("--only", choices=("wal", "backups"), default="")
    parser.add_argument("--dry-run", action="store_true", help="show what waits")
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
    parser.add_argument(
        "--allow-plain", action="store_true", help="take what is not encrypted although there are keys"
    )
    parser = command.add_verb("store", run_store, "compare the store with what we know of it")
    parser.add_argument("--read", action="store_true", help="read every object: SHA-256 and key")
    parser.add_argument(
        "--repair",
        action="store_true",
        help="queue what is missing or damaged again, take up what is unknown",
    )
    parser = command.add_verb("parts", run_parts, "show where each part of a backup lies")
    parser.add_argument(
        "backup_id", nargs="?", default="newest", help="or its beginning (default: the newest verified)"
    )
    parser = command.add_verb("key", run_key, "make an encryption key and print it")
    parser.add_argument("key_id", nargs="?", help="its name (default: today's date)")


def run_receive(**_: Any) -> Answer:
    """In the foreground, until SIGTERM or Ctrl-C."""
    stop = Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    return Answer(counts={"wal_files": receive(stop.is_set)})


def run_upload(only: str, dry_run: bool, **_: Any) -> Answer:
    store = require_store()
    if dry_run:
        enqueue(store)
        rows = Upload.objects.filter(store=store.url, uploaded_at=None).order_by("queued_at")
        found = waiting(store.url)
        steps = [
            {"action": "send", "object": row.key, "why": row.error or f"{row.size_bytes} bytes"}
            for row in rows[:1000]
        ]
        return Answer(steps=steps, counts={"waiting": found.objects, "waiting_bytes": found.size_bytes})
    sent = upload(only)
    left = waiting(store.url)
    return Answer(
        counts={
            "sent": sent.objects,
            "sent_bytes": sent.size_bytes,
            "refused": len(sent.refused),
            "waiting": left.objects,
        },
        warnings=[*sent.refused[:SHOWN], *([f"stopped: {sent.stopped}"] if sent.stopped else [])],
        ok=not sent.refused and not sent.stopped,
    )


def require_store() -> Any:
    store = open_store()
    if store is None:
        raise Refused(
            "there is no store: BACKUP_STORE_URL is not set", "set it to s3://bucket/prefix or file:///path"
        )
    return store


def run_fetch(
    backup_id: str, before: str | None, list: bool, dry_run: bool, no_wal: bool, allow_plain: bool, **_: Any
) -> Answer:
    if list:
        return list_stored(allow_plain)
    plan = plan_fetch(backup_id, moment_of(before), allow_plain, with_wal=not no_wal)
    answer = Answer(steps=plan.steps, warnings=plan.warnings, counts={"needed_mb": plan.needed_bytes >> 20})
    if not dry_run:
        done = fetch(plan)
        answer.counts |= {"backups": len(done.backups), "wal_files": done.wal}
        answer.warnings += remember(done.backups)
    return answer


def remember(backups: list[Backup]) -> list[str]:
    """Put it into the audit and take the doom back; return a warning where there is no database for that."""
    try:
        for backup in backups:
            spare(backup.pk)
        if backups:
            record(Actor.of_command(), "recovery.fetch", [backup.pk for backup in backups], reason="by hand")
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


def run_store(read: bool, repair: bool, **_: Any) -> Answer:
    source = open_source(allow_plain=True)
    stock, left = take_stock(source, read, repair), waiting(source.store.url)
    if repair:
        record(Actor.of_command(), "recovery.repair_store", [source.store.url], reason="by hand")
    rows = Upload.objects.filter(store=source.store.url).exclude(uploaded_at=None)
    items = [
        {
            "store": source.store.url,
            "key": row["key_id"] or "not encrypted",
            "objects": row["number"],
            "bytes": row["size"],
        }
        for row in rows.order_by("key_id")
        .values("key_id")
        .annotate(number=Count("pk"), size=Sum("stored_bytes"))
    ]
    warnings = stock.problems[:SHOWN]
    if stock.unknown:
        warnings.append(
            f"{len(stock.unknown)} objects are not in our table ({stock.unknown[0]}, ...):"
            " --repair takes up whole backups, others are left alone"
        )
    counts = {
        "objects": stock.objects,
        "bytes": stock.size_bytes,
        "missing": len(stock.missing),
        "damaged": len(stock.damaged),
        "unknown": len(stock.unknown),
        "adopted": stock.adopted,
        "waiting": left.objects,
        "doomed": rows.exclude(doomed_at=None).count(),
    }
    return Answer(items=items, counts=counts, warnings=warnings, ok=not stock.problems)


def run_parts(backup_id: str, **_: Any) -> Answer:
    """One row per part: is it here, is it in the store, encrypted with which key."""
    backup, warnings = catalogue.find(backup_id)
    rows = {row.key: row for row in Upload.objects.filter(backup_id=backup.pk)}
    folder, is_here = catalogue.folder_of(backup), catalogue.is_stored(backup)
    here = {f"{backup.location}/{part.name}": part for part in packing.plan_parts(folder)} if is_here else {}
    items = []
    for key in sorted(here.keys() | rows.keys()):
        row = rows.get(key)
        items.append(
            {
                "key": key,
                "files": len(here[key].files) if key in here else None,
                "here": "yes" if key in here else "",
                "store": row.store if row and row.uploaded_at else "waiting" if row else "",
                "stored_bytes": row.stored_bytes if row else None,
                "sha256": row.sha256 if row else None,
                "encrypted": row.key_id if row else None,
                "doomed_at": row.doomed_at if row else None,
                "error": row.error if row else None,
            }
        )
    counts = {"parts": len(items), "here": int(is_here), "stored": int(backup.stored_at is not None)}
    return Answer(items=items, counts=counts, warnings=warnings)


def run_key(key_id: str | None, **_: Any) -> Answer:
    name = key_id or f"k{timezone.now():%Y%m%d}"
    if not KEY_ID.fullmatch(name):
        raise Refused(f"{name}: no name of a key", "use letters, digits, - and _, at most 32")
    notes = [
        "set BACKUP_ENCRYPTION_KEYS to it, in front of the keys that there are: the first encrypts, all open",
        "keep it apart from the store and from this machine: without it nothing that it encrypted can be restored",
    ]
    return Answer(items=[{"key": make_key(name)}], warnings=notes)
