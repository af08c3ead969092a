"""The verbs of `manage.py backup` about what lies elsewhere: receive, upload, fetch, store, parts, key."""

import signal
from threading import Event
from typing import Any

from django.utils import timezone

from operators.command import Answer, OperatorCommand
from pg.errors import Refused
from recovery import catalogue, packing
from recovery.fetch_command import add_fetch_verb
from recovery.models import Upload
from recovery.receiving import receive
from recovery.sealing import KEY_ID, make_key
from recovery.stock_command import add_stock_verb
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
    add_fetch_verb(command)
    add_stock_verb(command)
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
