"""What can go wrong with knowledge."""

from pg.errors import MisterSmithError, Refused


class KnowledgeError(MisterSmithError):
    """The root of this room's errors."""


class BadClaim(KnowledgeError, Refused):
    """A claim breaks a rule; nothing of its batch was stored."""


class UnknownFact(KnowledgeError):
    """No fact has this id."""


class Contended(KnowledgeError):
    """Other writers kept replacing the same facts. Nothing was stored; the same call may be tried again."""

    retry = True


class BadQuery(KnowledgeError, Refused):
    """The search has no word to look for."""


class BadInput(KnowledgeError, Refused):
    """A line of a file of facts cannot be read."""
