"""Sends through again, or drops, what was set apart: outbox rows that NATS refused, messages that could not be applied.

Each does its work and the audit entry in one transaction, but for messages: those are applied like any other first, and
forgotten when that is committed. Doing it twice changes nothing.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from django.db import connection as default
from django.db import transaction
from django.db.backends.base.base import BaseDatabaseWrapper

from bridge import outbox, topology
from bridge.changes import Letter
from bridge.flusher import flush_batch
from bridge.models import DeadLetter, QuarantinedRow
from bridge.progress import ProgressReader
from bridge.reader import apply_again
from bridge.received import MessageReader
from bridge.session import open_session
from bridge.targets import TARGETS
from operators.audit import Actor, record
from pg.errors import Refused

Handler = Callable[[BaseDatabaseWrapper, str, Letter], bool]  # stream, message; True: it is settled


@dataclass(frozen=True)
class Redriven:
    """`left` failed again, or wait for the relay: they are still where they were."""

    done: int
    left: int


def redrive_rows(ids: Sequence[int], *, by: Actor, reason: str) -> Redriven:
    """Put quarantined outbox rows back under their ids. One whose key an agent wrote since stays out: it is past, and
    forgotten."""
    with transaction.atomic():
        record(by, "bridge.redrive_rows", ids, reason=reason)
        outbox.forget_past(default, ids)
        number = outbox.redrive(default, ids)
    return Redriven(number, QuarantinedRow.objects.filter(pk__in=ids).count())


def drop_rows(ids: Sequence[int], *, by: Actor, reason: str) -> int:
    """Forget quarantined rows for good; later rows of their keys go on."""
    with transaction.atomic():
        record(by, "bridge.drop_rows", ids, reason=reason)
        return QuarantinedRow.objects.filter(pk__in=ids).delete()[0]


def redrive_letters(ids: Sequence[int], *, by: Actor, reason: str) -> Redriven:
    """Apply dead letters once more; those that fail again stay, with the new error and one attempt more."""
    record(by, "bridge.redrive_letters", ids, reason=reason)
    done = 0
    with open_session() as db:
        for dead in DeadLetter.objects.filter(pk__in=ids).order_by("pk").iterator(100):
            handler = HANDLERS.get(dead.consumer)
            if handler is None:
                raise Refused(f"{dead}: nothing here reads for {dead.consumer}", "drop it")
            if handler(db, dead.stream, as_letter(dead)):
                dead.delete()
                done += 1
    return Redriven(done, len(ids) - done)


def drop_letters(ids: Sequence[int], *, by: Actor, reason: str) -> int:
    """Forget dead letters for good."""
    with transaction.atomic():
        record(by, "bridge.drop_letters", ids, reason=reason)
        return DeadLetter.objects.filter(pk__in=ids).delete()[0]


def all_ids(model: type[DeadLetter] | type[QuarantinedRow]) -> list[int]:
    return list(model.objects.order_by("pk").values_list("pk", flat=True))


def as_letter(dead: DeadLetter) -> Letter:
    return Letter(
        dead.subject,
        bytes(dead.payload),
        dead.headers,
        dead.stream_sequence,
        dead.stream_epoch,
        dead.stored_at,
        deliveries=1,
    )


def flush_again(db: BaseDatabaseWrapper, stream: str, letter: Letter) -> bool:
    done = flush_batch(db, TARGETS[stream.removeprefix("FLUSH_")], [letter])
    return not done.dead and not done.waiting


HANDLERS: dict[str, Handler] = {
    topology.FLUSHER: flush_again,
    topology.MESSAGES: lambda db, stream, letter: apply_again(MessageReader, letter),
    topology.PROGRESS: lambda db, stream, letter: apply_again(ProgressReader, letter),
}
