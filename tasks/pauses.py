"""Pauses of a type or a queue: a row says so, no task is touched, what runs goes on."""

from collections.abc import Iterable
from datetime import datetime

from django.db import transaction
from django.utils import timezone

from operators.audit import Actor, record
from pg.errors import Refused
from pg.queries import Queries
from tasks import tickets
from tasks.models import Pause, QueuePause, TaskType

QUERIES = Queries("tasks")


def pause(task_type: str, reason: str = "", by: Actor | None = None, until: datetime | None = None) -> bool:
    """Let nothing of the type be claimed any more, until then or until it is resumed (None).

    Returns False, nothing changed, where it was paused already. Raises Refused for a moment that has passed. `by`: who
    is recorded in the audit; None: nobody, it is the program's own doing.
    """
    check_until(until)
    told = {"reason": reason, "paused_by": by.name if by else "", "paused_until": until}
    with transaction.atomic():
        _, is_new = Pause.objects.get_or_create(task_type=task_type, defaults=told)
        if is_new and by:
            record(by, "tasks.pause", [task_type], reason=reason, details=_details(until))
    return is_new


def pause_queue(queue: str, reason: str = "", by: Actor | None = None, until: datetime | None = None) -> bool:
    """The same for all types of a queue."""
    check_until(until)
    told = {"reason": reason, "paused_by": by.name if by else "", "paused_until": until}
    with transaction.atomic():
        _, is_new = QueuePause.objects.get_or_create(queue=queue, defaults=told)
        if is_new and by:
            record(by, "tasks.pause_queue", [queue], reason=reason, details=_details(until))
    return is_new


def resume(task_type: str, reason: str = "", by: Actor | None = None) -> bool:
    """End a pause; return False where there was none."""
    with transaction.atomic():
        count, _ = Pause.objects.filter(task_type=task_type).delete()
        if count:
            tickets.send_on_commit([task_type])
        if count and by:
            record(by, "tasks.resume", [task_type], reason=reason)
    return bool(count)


def resume_queue(queue: str, reason: str = "", by: Actor | None = None) -> bool:
    """End a queue's pause; return False where there was none. Types that are paused themselves stay so."""
    with transaction.atomic():
        count, _ = QueuePause.objects.filter(queue=queue).delete()
        if count:
            tickets.send_on_commit(types_of_queues([queue]))
        if count and by:
            record(by, "tasks.resume_queue", [queue], reason=reason)
    return bool(count)


def end_pauses() -> int:
    """Remove pauses whose time is over, and send tickets; return how many.

    Safe twice or beside itself: claims do not look at such rows any more.
    """
    with transaction.atomic():
        rows = QUERIES.run("end_pauses")
        types = [row["task_type"] for row in rows if row["task_type"]]
        queues = [row["queue"] for row in rows if row["queue"]]
        if rows:
            tickets.send_on_commit([*types, *types_of_queues(queues)])
    return len(rows)


def types_of_queues(queues: Iterable[str]) -> list[str]:
    return list(TaskType.objects.filter(queue__in=list(queues)).values_list("pk", flat=True))


def check_until(until: datetime | None) -> None:
    """Raise Refused for a moment without a time zone, or one that has passed."""
    if until is not None and (until.tzinfo is None or until <= timezone.now()):
        raise Refused(f"until={until}: must be a moment in the future, with a time zone")


def _details(until: datetime | None) -> dict[str, str]:
    return {"until": until.isoformat()} if until else {}
