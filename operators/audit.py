"""Who did what, to what, and why.

`record` writes in the caller's transaction: what is rolled back was not done, and what is committed is in the audit.
Nobody can change or remove an entry afterwards without breaking the chain of seals, which `audit verify` follows.
"""

import getpass
import socket
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Self

from django.db import connection
from django.http import HttpRequest
from django.utils import timezone

from operators.models import AuditEntry, Via
from pg.errors import Refused

OBJECTS_KEPT = 100
REASON_LENGTH = 1_000
SEAL_DELAY = timedelta(hours=1)  # the job seals each minute: older unsealed entries mean that it does not run


@dataclass(frozen=True)
class Actor:
    """Who acts, and through which door. `address` is the network address where there is one."""

    name: str
    via: str
    address: str | None = None

    @classmethod
    def of_request(cls, request: HttpRequest) -> Self:
        """Return the user who is logged in."""
        return cls(request.user.get_username(), Via.ADMIN, request.META.get("REMOTE_ADDR") or None)

    @classmethod
    def of_command(cls) -> Self:
        """Return the system's user at this machine: commands have no log-in of their own."""
        return cls(f"{getpass.getuser()}@{socket.gethostname()}", Via.COMMAND)

    @classmethod
    def of_job(cls, job: str) -> Self:
        """Return a Celery job that acts by itself, by its name ("partitions.apply")."""
        return cls(job, Via.JOB)


def record(
    by: Actor,
    action: str,
    objects: Iterable[Any] = (),
    *,
    reason: str = "",
    details: dict[str, Any] | None = None,
    object_count: int | None = None,
) -> int:
    """Add an entry in the caller's transaction; return its id.

    `action` is "<room>.<verb>" ("tasks.cancel"). Of `objects` the first OBJECTS_KEPT are kept as text; `object_count` x
    """
    names = [str(item) for item in objects]
    return AuditEntry.objects.create(
        actor=by.name,
        via=by.via,
        address=by.address,
        action=action,
        objects_touched=names[:OBJECTS_KEPT],
        object_count=len(names) if object_count is None else object_count,
        reason=reason,
        details=details or {},
    ).pk


def require_reason(reason: str) -> str:
    """Return the reason without outer blanks. Raises Refused when it is empty or longer than REASON_LENGTH."""
    text = reason.strip()
    if not text:
        raise Refused("the reason is empty", "say why: --reason '...'")
    if len(text) > REASON_LENGTH:
        raise Refused(f"the reason has {len(text)} characters, {REASON_LENGTH} are allowed", "shorten it")
    return text


# -- seals --------------------------------------------------------------------------------------------------
def seal_entries() -> int:
    """Seal what is not sealed yet; return how many entries. One statement; a second runner beside it does nothing."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT operators.seal_audit()")
        return int(cursor.fetchone()[0])


@dataclass(frozen=True)
class Break:
    """Where the chain of seals does not hold. `entry_id` is None where the entry is missing."""

    seal_number: int
    entry_id: int | None
    problem: str


@dataclass(frozen=True)
class Verification:
    """What following the chain found. Note `head`, the newest seal, outside: entries cut off at the end leave no trace
    but a head that is older than the one noted."""

    breaks: list[Break]
    sealed: int
    unsealed: int
    overdue: int  # unsealed for longer than SEAL_DELAY
    head: str  # hexadecimal; empty without any seal

    @property
    def is_whole(self) -> bool:
        return not self.breaks and not self.overdue


def verify_entries() -> Verification:
    """Follow the whole chain. Reads every entry once."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT seal_number, entry_id, problem FROM operators.verify_audit()")
        breaks = [Break(*row) for row in cursor.fetchall()]
    newest = AuditEntry.objects.filter(seal_number__isnull=False).order_by("-seal_number").first()
    unsealed = AuditEntry.objects.filter(seal__isnull=True)
    return Verification(
        breaks=breaks,
        sealed=AuditEntry.objects.filter(seal_number__isnull=False).count(),
        unsealed=unsealed.count(),
        overdue=unsealed.filter(recorded_at__lt=timezone.now() - SEAL_DELAY).count(),
        head=bytes(newest.seal).hex() if newest and newest.seal else "",
    )
