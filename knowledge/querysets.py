"""Which facts hold, and which were known."""

from datetime import datetime
from typing import Any, Self

from django.db import models
from django.db.models import Q
from django.db.models.functions import Now


class FactQuerySet(models.QuerySet[Any]):
    def held(self, as_of: datetime | None = None, known_at: datetime | None = None) -> Self:
        """Return the facts that hold at `as_of`, by what was known at `known_at`; None means now, for either.

        A fact whose end was learned only after `known_at` was then thought to be open.
        """
        return self.known(known_at).filter(self._holds(as_of or Now(), known_at))

    def known(self, known_at: datetime | None = None) -> Self:
        """Return the facts that were recorded and not retracted at `known_at`; None means now."""
        if known_at is None:
            return self.filter(retracted_at=None)
        return self.filter(Q(retracted_at=None) | Q(retracted_at__gt=known_at), created_at__lte=known_at)

    def _holds(self, moment: Any, known_at: datetime | None) -> Q:
        unfinished = Q(valid_until=None) | Q(valid_until__gt=moment)
        if known_at is not None:
            unfinished |= Q(closed_at__gt=known_at)
        return Q(valid_from__lte=moment) & unfinished


class FactManager(models.Manager.from_queryset(FactQuerySet)):  # type: ignore[misc]
    """Never loads `search_text`: it is made for comparing, and bigger than the fact."""

    def get_queryset(self) -> Any:
        return super().get_queryset().defer("search_text")
