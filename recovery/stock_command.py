"""The verb `manage.py backup store`: what the store holds, compared with what we know of it."""

from typing import Any

from django.db.models import Count, Sum

from operators.audit import Actor, record
from operators.command import Answer, OperatorCommand
from recovery.models import Upload
from recovery.source import open_source
from recovery.stocktaking import take_stock
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
