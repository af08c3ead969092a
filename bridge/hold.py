"""After a restore of PostgreSQL the bridge stands still until JetStream is brought to the same moment.

Restored rows know nothing of what came later, and JetStream may: an outbox row would count as done because a later one
of the lost future had its id. So the restore leaves a row in bridge.hold, and `backup restore-jetstream` takes it away.
"""

import json
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from django.db.backends.base.base import BaseDatabaseWrapper

from bridge.session import execute
from pg.errors import MisterSmithError

HINT = "bring JetStream to the same moment: `manage.py backup restore-jetstream`"
RESTORING = "SET bridge.restoring = 'on'"  # in the session of the one who restores, who works on
IS_FREE = "(NOT EXISTS (SELECT FROM bridge.hold) OR current_setting('bridge.restoring', true) = 'on')"


class Held(MisterSmithError):
    """PostgreSQL was restored and JetStream is not in step yet; nothing was done."""

    retry = True


@dataclass(frozen=True)
class Restored:
    """What was restored, and when; `details` as the restore wrote them."""

    reason: str
    since: datetime
    details: dict[str, Any] = field(default_factory=dict)


def read_hold(db: BaseDatabaseWrapper) -> Restored | None:
    """Return why the bridge stands still; None: it does not."""
    for reason, since, details in execute(db, "SELECT reason, since, details::text FROM bridge.hold"):
        return Restored(reason, since, json.loads(details))
    return None


def require_free(db: BaseDatabaseWrapper) -> None:
    """Raise Held while JetStream is not brought to what PostgreSQL was restored to."""
    [(is_free,)] = execute(db, f"SELECT {IS_FREE}")
    if not is_free:
        raise Held("PostgreSQL was restored, JetStream is not yet", HINT)


def release(db: BaseDatabaseWrapper) -> None:
    """Let the bridge work again. Safe twice."""
    execute(db, "DELETE FROM bridge.hold")
