"""Decide which logical backups go. Pure: reads no clock, no disk and no database."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal
from uuid import UUID

FINISHED = ("complete", "verified", "damaged")


@dataclass(frozen=True)
class Candidate:
    """One backup as retention sees it. `is_stored` False: its folder is not where the catalogue says."""

    backup_id: UUID
    status: str
    started_at: datetime
    is_pinned: bool = False
    is_stored: bool = True

    @property
    def is_proven(self) -> bool:
        return self.status == "verified" and self.is_stored


@dataclass(frozen=True)
class Step:
    """`remove` deletes files and entry, `forget` the entry of one that has no files, `keep` does nothing."""

    action: Literal["keep", "remove", "forget"]
    backup_id: UUID
    why: str


def plan_retention(candidates: Iterable[Candidate], now: datetime, keep_days: int) -> list[Step]:
    """Return one step per backup, newest first.

    Only what is older than `keep_days` and older than a verified backup is removed: so the newest verified one always
    stays, and while none is verified everything does. Pinned and running ones stay. Applied twice, the second plan
    removes nothing.
    """
    ordered = sorted(candidates, key=lambda found: (found.started_at, found.backup_id), reverse=True)
    newest = next((found for found in ordered if found.is_proven), None)
    return [judge(found, newest, now - timedelta(days=keep_days), keep_days) for found in ordered]


def judge(found: Candidate, newest: Candidate | None, horizon: datetime, keep_days: int) -> Step:
    if found.is_pinned:
        return Step("keep", found.backup_id, "pinned")
    if found.started_at >= horizon:
        return Step("keep", found.backup_id, f"younger than {keep_days} days")
    if found.status == "running":
        return Step("keep", found.backup_id, "running")
    if found.status == "failed":
        return Step("forget", found.backup_id, f"failed more than {keep_days} days ago")
    if newest is None:
        return Step("keep", found.backup_id, "no backup is verified yet: nothing is removed")
    if found == newest:
        return Step("keep", found.backup_id, "the last verified one")
    if found.started_at > newest.started_at:
        return Step("keep", found.backup_id, "newer than the last verified one")
    why = f"older than {keep_days} days, and {newest.backup_id} is newer and verified"
    return Step("remove", found.backup_id, why)
