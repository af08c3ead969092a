"""How many connections the installation may open on its server, and how many the server has: the sum, in words."""

from dataclasses import dataclass

from django.conf import settings
from django.db.backends.base.base import BaseDatabaseWrapper

BRIDGE_SESSIONS = 20  # of `bridge run`: two for each of its parts
OTHERS = 6  # beat, a few commands, a backup
USABLE = (
    "SELECT current_setting('max_connections')::int - current_setting('superuser_reserved_connections')::int"
    " - COALESCE(current_setting('reserved_connections', true)::int, 0)"
)


@dataclass(frozen=True)
class Budget:
    """`parts`: what may be open on the primary at most, by what it is for."""

    usable: int
    parts: dict[str, int]

    @property
    def needed(self) -> int:
        return sum(self.parts.values())

    @property
    def arithmetic(self) -> str:
        """The sum as text: "primary 20 + ... = 76 of 197 usable"."""
        told = " + ".join(f"{name} {number}" for name, number in self.parts.items())
        return f"{told} = {self.needed} of {self.usable} usable"


def count_parts() -> dict[str, int]:
    """Return the connections to the primary: a pool with servers of its own has none there."""
    parts = {"primary": settings.POOLS["primary"].maximum, "background": settings.POOLS["background"].maximum}
    urls = settings.DATABASE_URLS
    if not urls["replica"]:
        parts["replica (shared with primary)"] = settings.POOLS["replica"].maximum
    else:
        parts["watch"] = settings.POOLS["primary"].processes
    if not urls["analytics"]:
        parts["analytics (shared with primary)"] = settings.POOLS["analytics"].maximum
    return parts | {"bridge": BRIDGE_SESSIONS, "beat and commands": OTHERS}


def read_budget(connection: BaseDatabaseWrapper) -> Budget:
    """Ask the server for its limit. One query."""
    with connection.cursor() as cursor:
        cursor.execute(USABLE)
        return Budget(int(cursor.fetchone()[0]), count_parts())
