"""Bring both places of the catalogue in step, and finish what was interrupted."""

import json
import shutil

from django.core.exceptions import ValidationError
from django.db import DatabaseError, InterfaceError

from recovery import manifest
from recovery.catalogue import (
    Status,
    below,
    entry_of,
    is_stored,
    load_all,
    make_folders,
    read_finished,
    remove,
    save,
    save_row,
    trash_of,
)
from recovery.entries import from_json, to_json
from recovery.models import Backup


def tidy() -> list[Backup]:
    """Bring both places in step and finish what was interrupted; return every backup. Hold the recovery lock.

    Running ones have no runner then: those whose folder is finished are complete, the others failed.
    """
    make_folders()
    backups, _ = load_all()
    for backup in backups:
        if trash_of(backup).exists():
            remove(backup)
        elif backup.status == Status.RUNNING:
            settle_interrupted(backup)
        else:
            bring_in_step(backup)
    for path in below(".partial-*"):
        shutil.rmtree(path, ignore_errors=True)
    return load_all()[0]


def settle_interrupted(backup: Backup) -> None:
    finished = read_finished(backup.location) if is_stored(backup) else None
    if finished is not None:
        save(finished)
        return
    backup.status, backup.error = Status.FAILED, "interrupted: the process that made it was killed"
    save(backup)


def bring_in_step(backup: Backup) -> None:
    """Write the entry where it is missing or older. A location on another machine is left alone."""
    if not is_row_current(backup):
        save_row(backup)
    if not is_entry_current(backup):
        manifest.write_json(entry_of(backup.pk), to_json(backup))


def is_row_current(backup: Backup) -> bool:
    """Tell whether the row needs nothing; also where there is no database to write it to."""
    try:
        return Backup.objects.filter(pk=backup.pk, updated_at__gte=backup.updated_at).exists()
    except (DatabaseError, InterfaceError):
        return True


def is_entry_current(backup: Backup) -> bool:
    try:
        text = entry_of(backup.pk).read_text("utf-8")
        return bool(from_json(json.loads(text)).updated_at >= backup.updated_at)
    except (OSError, ValueError, ValidationError):
        return False
