"""The root of our errors. A caller needs one thing: may the same call be tried again?"""


class MisterSmithError(Exception):
    """Something a person should know. `hint` says what to do next; it is printed after the message.

    `retry` is True where the same call may go through later (a lock, an outage), False where it never will.
    """

    retry = False

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


class Unreachable(MisterSmithError):
    """A server does not answer."""

    retry = True


class Refused(MisterSmithError):
    """The request breaks a rule; nothing was changed."""
