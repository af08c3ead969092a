"""The verbs `manage.py backup store` and `rekey`: what the store holds, is it right, and under which keys."""

from typing import Any

from django.db.models import Count, Sum

from operators.audit import Actor, record
from operators.command import Answer, OperatorCommand
from recovery.models import Upload
from recovery.rekeying import current_key, doomed_under, plan_rekey, rekey
from recovery.source import open_source
from recovery.stocktaking import repair_store, take_stock
from recovery.upload_queue import waiting

SHOWN = 20


def add_stock_verb(command: OperatorCommand) -> None:
    parser = command.add_verb("store", run_store, "compare the store with what we know of it")
    parser.add_argument("--read", action="store_true", help="read every object: SHA-256 and key")
    parser.add_argument(
        "--repair",
        action="store_true",
        help="queue what is missing or damaged again, take up what is unknown",
    )
    parser.add_argument("--reason", default="by hand", help="kept in the audit")
    parser = command.add_verb("rekey", run_rekey, "encrypt what lies in the store anew, with the first key")
    parser.add_argument("--dry-run", action="store_true", help="show what is under other keys")
    parser.add_argument("--reason", default="by hand", help="kept in the audit")


def run_store(read: bool, repair: bool, reason: str, **_: Any) -> Answer:
    source = open_source(allow_plain=True)
    if repair:
        record(Actor.of_command(), "recovery.repair_store", [source.store.url], reason=reason)
    stock, left = (repair_store if repair else take_stock)(source, read), waiting(source.store.url)
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


def run_rekey(dry_run: bool, reason: str, **_: Any) -> Answer:
    """Exit 1 while an object is left under another key: that one is still needed then."""
    groups, source = plan_rekey(), open_source(allow_plain=True)
    current = current_key(source)
    steps = [
        {
            "action": "encrypt",
            "object": f"{group.objects} objects, {group.size_bytes >> 20} MB",
            "why": f"{f'under key {group.key_id}' if group.key_id else 'not encrypted'}; then under {current}",
        }
        for group in groups
    ]
    if dry_run:
        return Answer(steps=steps, counts={"objects": sum(group.objects for group in groups)})
    record(Actor.of_command(), "recovery.rekey", [source.store.url], reason=reason, details={"key": current})
    done = rekey()
    left = sum(group.objects for group in plan_rekey())
    counts = {"encrypted": done.objects, "bytes": done.size_bytes, "refused": len(done.refused), "left": left}
    warnings = [f"{key}: {why}" for key, why in list(done.refused.items())[:SHOWN]]
    if done.stopped:
        warnings.append(f"stopped: {done.stopped}; run it again, it goes on")
    if doomed := doomed_under(source.store.url, current):
        warnings.append(
            f"{doomed} pruned objects wait for their end under other keys: keep those keys until then"
        )
    return Answer(steps=steps, counts=counts, warnings=warnings, ok=not left and not done.stopped)
