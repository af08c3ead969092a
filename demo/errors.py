"""What can go wrong in the demo."""

from pg.errors import Refused


class UnknownModule(Refused):
    """There is no such module with a source file on this machine."""
