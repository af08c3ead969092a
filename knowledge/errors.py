"""What can go wrong with knowledge."""

from pg.errors import MisterSmithError, Refused, Unreachable


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


class ProviderUnavailable(KnowledgeError):
    """Vectors cannot be made until somebody corrects something. Everything else works."""


class ProviderFailed(KnowledgeError, Unreachable):
    """The provider did not answer, or asked us to wait; the same call may go through later.

    `after_seconds`: how long it asked us to wait; None: it did not say.
    """

    def __init__(self, message: str, hint: str = "", after_seconds: float | None = None) -> None:
        super().__init__(message, hint)
        self.after_seconds = after_seconds


class BadVector(KnowledgeError):
    """The provider answered with something that is no vector of this model."""


class TextRefused(BadVector):
    """The provider makes no vector of one of these texts; of others it may."""


class NoVectors(KnowledgeError, Refused):
    """Search by meaning was asked for, and there is nothing to search in."""


class UnknownModel(KnowledgeError, Refused):
    """No embedding model has this name, or its state forbids it."""
