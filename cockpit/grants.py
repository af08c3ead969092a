"""What each of the four database roles may do: the rule, apart from how a server is brought to it.

app_primary    reads and writes rows through the tables as declared; partitions directly only those of tasks.queue,
which
               the claim names; of the audit only adding; ends sessions (the cockpit's page does). Makes no tables.
app_background belongs to the owner of the tables: makes, moves and drops partitions, backs up.
app_replica    reads, but not who logs in (passwords, sessions).
app_analytics  the same.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

READ, ROWS = frozenset({"SELECT"}), frozenset({"SELECT", "INSERT", "UPDATE", "DELETE"})
ADD = frozenset({"SELECT", "INSERT"})
NONE: frozenset[str] = frozenset()
SECRET = frozenset({"public.auth_user", "public.django_session"})
APPEND_ONLY = frozenset({"operators.audit"})
READ_BY_ALL = frozenset({"public.django_migrations"})
QUEUE = "tasks.queue"
# predefined roles of PostgreSQL: the pages of the server, its monitoring, ending sessions; a replica's timeline
MEMBERSHIPS: Mapping[str, tuple[str, ...]] = {
    "primary": ("pg_monitor", "pg_signal_backend"),
    "background": ("pg_monitor", "pg_read_all_data"),
    "replica": ("pg_read_all_stats",),
    "analytics": (),
}


@dataclass(frozen=True)
class Relation:
    """A table, view or sequence. `kind` as in pg_class.relkind; `root`: the table it is a partition of, else ""."""

    name: str
    kind: str
    root: str = ""


def wanted_rights(pool: str, relation: Relation) -> frozenset[str]:
    """Return what the role of a pool is granted on a relation."""
    if pool == "background":
        return NONE  # by its membership
    if relation.kind == "S":
        return frozenset({"USAGE"}) if pool == "primary" else NONE
    if pool != "primary":
        return NONE if relation.name in SECRET else READ
    if relation.kind in "vm" or relation.name in READ_BY_ALL:
        return READ
    if relation.root and relation.root != QUEUE:
        return READ
    return ADD if relation.name in APPEND_ONLY else ROWS


def difference(
    relations: Iterable[Relation], roles: Mapping[str, str], found: Mapping[tuple[str, str], frozenset[str]]
) -> list[tuple[str, Relation, str, frozenset[str]]]:
    """Return (GRANT or REVOKE, relation, role, rights) for what differs. `roles`: by pool; `found`: rights by
    relation and role."""
    steps = []
    for relation in relations:
        for pool, role in roles.items():
            wanted, has = wanted_rights(pool, relation), found.get((relation.name, role), NONE)
            for action, rights in (("REVOKE", has - wanted), ("GRANT", wanted - has)):
                if rights:
                    steps.append((action, relation, role, rights))
    return steps
