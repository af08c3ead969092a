"""What can go wrong with backups."""

from pg.errors import MisterSmithError, Refused


class RecoveryError(MisterSmithError):
    """The root of this room's errors."""


class Busy(RecoveryError):
    """A backup, verification or pruning of this database runs already; nothing was changed."""

    retry = True


class UnfitTools(RecoveryError, Refused):
    """PostgreSQL's programs are missing, or older than the server."""


class NoSpace(RecoveryError, Refused):
    """The backup folder has too little room; nothing was begun."""

    retry = True


class ToolFailed(RecoveryError):
    """A program of PostgreSQL's ended with an error. `words` is all that it said, `code` how it ended."""

    retry = True

    def __init__(self, message: str, hint: str = "", words: str = "", code: int = 1) -> None:
        super().__init__(message, hint)
        self.words, self.code = words, code

    def is_only(self, harmless: str) -> bool:
        """Tell whether every error that it named is this one, and it went on to its end."""
        named = [line for line in self.words.splitlines() if "error: " in line]
        return "errors ignored on restore" in self.words and all(harmless in line for line in named)


class UnknownBackup(RecoveryError, Refused):
    """No backup has this id."""


class Damaged(RecoveryError, Refused):
    """The backup is not what was written: it is not restored from."""


class TargetInUse(RecoveryError, Refused):
    """The database to restore into exists and is not empty; it was left as it is."""


class NotReachable(RecoveryError, Refused):
    """A restore would not reach its target, or would silently give something else; nothing was begun."""


class RestoreFailed(RecoveryError):
    """The replay ended before its target; what it had made is gone again."""


class SnapshotFailed(RecoveryError):
    """JetStream did not give a stream, or did not take it back; nothing half-made is left of it."""

    retry = True


class NotInStep(RecoveryError, Refused):
    """PostgreSQL and JetStream would not be at one moment afterwards; nothing was done."""


class Taken(RecoveryError, Refused):
    """Another object has the key in the store; it was left as it is."""


class NoKey(RecoveryError, Refused):
    """An object is encrypted with a key that we do not have, or a key cannot be read."""
