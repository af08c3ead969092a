"""What an operator asks for: a backup, a proof, a pin, the store. Who and why is in the audit, then it is done."""

from collections.abc import Callable, Iterable
from typing import Any

from django.db import transaction
from kombu.exceptions import OperationalError

from operators.audit import Actor, record, require_reason
from pg.errors import Unreachable
from recovery import catalogue
from recovery.jobs import (
    back_up_server_job,
    cross_backup_job,
    cross_drill_job,
    drill_job,
    fetch_job,
    logical_backup_job,
    partial_drill_job,
    rekey_job,
    repair_store_job,
    upload_backups_job,
    verify_job,
)
from recovery.models import Backup
from recovery.server import exclusive, home_server

ORDERS: dict[str, tuple[str, Callable[[], Any]]] = {
    "logical": ("a logical backup of the database", lambda: logical_backup_job.delay()),
    "base": ("a base backup of the whole server", lambda: back_up_server_job.delay()),
    "incremental": (
        "an incremental backup of the whole server",
        lambda: back_up_server_job.delay(incremental=True),
    ),
    "cross": ("PostgreSQL and JetStream at one moment", lambda: cross_backup_job.delay()),
    "upload": ("what waits to the store", lambda: upload_backups_job.delay()),
    "drill": ("a restore drill", lambda: drill_job.delay()),
    "partial_drill": ("a drill of a partial restore", lambda: partial_drill_job.delay()),
    "cross_drill": ("a restore drill of both systems", lambda: cross_drill_job.delay()),
}

STORE_ORDERS: dict[str, tuple[str, Callable[[], Any]]] = {
    "repair_store": (
        "read all of the store; send again what is missing or damaged, take up what our table has forgotten",
        lambda: repair_store_job.delay(),
    ),
    "rekey": ("encrypt anew what is not under the first key", lambda: rekey_job.delay()),
}


def order(what: str, by: Actor, reason: str) -> str:
    """Send one of ORDERS or STORE_ORDERS to the workers; return what was ordered, in words. Raises Unreachable without
    a broker, and then nothing is in the audit."""
    words, send = (ORDERS | STORE_ORDERS)[what]
    with transaction.atomic():
        record(by, f"recovery.{what}", [words], reason=require_reason(reason))
        reach_broker(send)
    return words


def order_proof(backups: Iterable[Backup], by: Actor, reason: str) -> int:
    """Let the workers prove the finished ones among these backups; return how many. Raises Unreachable."""
    finished = [backup for backup in backups if backup.completed_at is not None]
    with transaction.atomic():
        record(by, "recovery.verify", [backup.pk for backup in finished], reason=require_reason(reason))
        for backup in finished:
            reach_broker(lambda backup=backup: verify_job.delay(str(backup.pk)))  # type: ignore[misc]
    return len(finished)


def order_fetch(backups: Iterable[Backup], by: Actor, reason: str) -> int:
    """Let the workers bring back those of these backups that the store has; return how many. Raises Unreachable."""
    stored = [backup for backup in backups if backup.stored_at is not None]
    with transaction.atomic():
        record(by, "recovery.fetch", [backup.pk for backup in stored], reason=require_reason(reason))
        for backup in stored:
            reach_broker(lambda backup=backup: fetch_job.delay(str(backup.pk)))  # type: ignore[misc]
    return len(stored)


def reach_broker(send: Callable[[], Any]) -> None:
    try:
        send()
    except OperationalError as error:
        raise Unreachable(f"the broker does not answer: {error}", "run `manage.py status`") from error


def pin(backups: Iterable[Backup], by: Actor, reason: str, off: bool = False) -> list[Backup]:
    """Keep backups from being pruned, or with `off` let them be again; return them. Raises Busy."""
    chosen = list(backups)
    with exclusive(home_server()), transaction.atomic():
        record(
            by,
            "recovery.unpin" if off else "recovery.pin",
            [found.pk for found in chosen],
            reason=require_reason(reason),
        )
        for backup in chosen:
            backup.is_pinned = not off
            catalogue.save(backup)
    return chosen
