"""Audit entries of commands: also when the database that keeps them is the one that is gone."""

import logging
from collections.abc import Iterable
from typing import Any

from django.db import DatabaseError, InterfaceError

from operators.audit import Actor, record

log = logging.getLogger(__name__)


def note(action: str, objects: Iterable[Any], reason: str, **details: Any) -> None:
    """Record what somebody does by command. Without our database it is only logged: a restore must go on."""
    by = Actor.of_command()
    try:
        record(by, f"recovery.{action}", objects, reason=reason, details=details)
    except (DatabaseError, InterfaceError) as error:
        log.warning("not in the audit: %s %s by %s (%s)", action, details, by.name, str(error).strip())
