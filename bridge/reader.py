"""Reads a durable consumer into PostgreSQL.

A batch is one transaction; a message that PostgreSQL will never take is set apart in it.
"""

import contextlib
from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Any

from django.db import DatabaseError, transaction
from django.db import connection as default
from django.db.backends.base.base import BaseDatabaseWrapper
from django.utils import timezone

from bridge import connection, setup, topology
from bridge.changes import Letter
from bridge.dead_letters import bury, is_poison
from bridge.headers import SYNC_ORIGIN
from bridge.puller import acknowledge
from bridge.pulling import CALL_SECONDS, Pulling
from bridge.session import execute
from pg.errors import MisterSmithError

BATCH, ENOUGH = 100, 50
LINGER_SECONDS = 0.05


class Done(StrEnum):
    """What became of a message. OWN: PostgreSQL itself had sent it; STALE: it says nothing that is news."""

    APPLIED = "applied"
    OWN = "own"
    STALE = "stale"
    DEAD = "dead"


class Reader(Pulling):
    """Reads one consumer until stopped; a subclass says what one message does. Any number may run at once."""

    consumer = ""  # its label in the topology
    origin = "kv"  # what it writes is not sent back; "": it is

    def __init__(self) -> None:
        self.item = topology.consumers()[self.consumer]
        super().__init__(self.item.name)
        self.totals = dict.fromkeys(Done, 0)

    def apply(self, letter: Letter) -> Done:
        """Do what a message of others says, inside a transaction on the default connection. Raises MisterSmithError
        (without `retry`) or what PostgreSQL raises for one that can never be applied. Must bear being repeated."""
        raise NotImplementedError

    def open(self) -> contextlib.AbstractContextManager[BaseDatabaseWrapper]:
        """The rooms' own functions use this thread's default connection: so does this part."""
        return contextlib.nullcontext(default)

    def prepare(self, db: BaseDatabaseWrapper) -> None:
        setup.apply_plan(setup.make_plan(setup.read_found()), ("create", "update"))
        epoch = setup.read_found().created.get(self.item.stream, 0)
        self.begin(self.item.stream, self.item.name, epoch, are_own)

    def turn(self, db: BaseDatabaseWrapper) -> None:
        pulled = self.pull(BATCH, ENOUGH, LINGER_SECONDS)
        self.totals[Done.OWN] += self.count_passed()
        if pulled.letters:
            self.read_batch(pulled.letters)
            connection.call(lambda client: acknowledge(client.nc, pulled.letters), CALL_SECONDS)
        self.outage.end()

    def read_batch(self, letters: Sequence[Letter]) -> None:
        """Apply the messages, one savepoint each, in one transaction; none where PostgreSQL had sent all of them."""
        counts = dict.fromkeys(Done, 0)
        foreign = [letter for letter in letters if not is_own(letter)]
        counts[Done.OWN] = len(letters) - len(foreign)
        if foreign:
            with transaction.atomic():
                set_origin(self.origin)
                for letter in foreign:
                    counts[self.apply_or_bury(letter)] += 1
        for what, number in counts.items():
            self.totals[what] += number
        now = timezone.now()
        self.lags.add(
            (now - letter.stored_at).total_seconds() for letter in letters if letter.deliveries == 1
        )

    def apply_or_bury(self, letter: Letter) -> Done:
        try:
            with transaction.atomic():
                return self.apply(letter)
        except MisterSmithError as error:
            if error.retry:
                raise
            reason = f"{error}. {error.hint}".rstrip(". ")
        except ValueError as error:
            reason = str(error)
        except DatabaseError as error:
            if not is_poison(error):
                raise
            reason = str(error).strip()
        bury(default, self.item.name, self.item.stream, [(letter, reason)])
        return Done.DEAD

    def figures(self) -> dict[str, Any]:
        return {
            **{str(what): number for what, number in self.totals.items()},
            "pending": self.pending,
            "lag_ms": self.lags.quantiles(),
        }


def is_own(letter: Letter) -> bool:
    """Tell whether PostgreSQL itself had sent the message: then it says nothing that is news."""
    return are_own(letter.headers)


def are_own(headers: Mapping[str, str]) -> bool:
    return SYNC_ORIGIN in headers


def set_origin(origin: str) -> None:
    """Say for this transaction whether what it writes came from JetStream."""
    execute(default, "SELECT set_config('sync.origin', %s, true)", [origin])


def apply_again(reader: type[Reader], letter: Letter) -> bool:
    """Apply a dead letter once more; return whether it is settled."""
    if is_own(letter):
        return True
    with transaction.atomic():
        set_origin(reader.origin)
        return reader().apply_or_bury(letter) is not Done.DEAD
