"""What a database holds: tables, rows, checksums, names. Taken when a backup is made, and again from its restore."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any, Self

import psycopg
from psycopg import sql

from pg.queries import Queries
from recovery.errors import RecoveryError
from recovery.server import Session

QUERIES = Queries("recovery")
UNDEFINED_TABLE = "42P01"
NAMED_AT_MOST = 20  # problems told one by one


@dataclass(frozen=True)
class Leaf:
    """`bound` is '' for a table that is not partitioned. `checksum` does not depend on the order of the rows."""

    bound: str
    rows: int
    checksum: str


@dataclass(frozen=True)
class Contents:
    """Leaves by table and name (a plain table is its own only leaf), and the names of everything else."""

    tables: dict[str, dict[str, Leaf]]
    objects: list[str] = field(default_factory=list)

    @property
    def row_counts(self) -> dict[str, int]:
        return {name: sum(leaf.rows for leaf in leaves.values()) for name, leaves in self.tables.items()}

    @property
    def rows(self) -> int:
        return sum(self.row_counts.values())

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Self:
        tables = {
            name: {leaf: Leaf(**found) for leaf, found in leaves.items()}
            for name, leaves in value["tables"].items()
        }
        return cls(tables, list(value["objects"]))


@dataclass(frozen=True)
class TableRef:
    """A table or leaf to be read. `quoted` may stand in SQL. `leaf` None: a partitioned table without leaves."""

    table: str
    table_quoted: str
    is_partitioned: bool
    leaf: str | None
    leaf_quoted: str | None
    bound: str | None


def list_tables(session: Session) -> list[TableRef]:
    """Return what there is to read, by name. One query."""
    return [TableRef(*row) for row in session.execute(QUERIES.text("tables")).fetchall()]


def lock_tables(session: Session, refs: Iterable[TableRef]) -> None:
    """Keep every table from being dropped, detached or truncated until the transaction ends (ACCESS SHARE).

    Raises RecoveryError (retry) when one went between the listing and the lock.
    """
    names = sorted({name for ref in refs for name in (ref.table_quoted, ref.leaf_quoted) if name})
    if not names:
        return
    try:
        session.execute(f"LOCK TABLE {', '.join(names)} IN ACCESS SHARE MODE")
    except psycopg.errors.UndefinedTable as error:
        changed = RecoveryError(f"the schema changed meanwhile: {error}".strip(), "run the command again")
        changed.retry = True
        raise changed from error


def read_contents(session: Session, refs: list[TableRef]) -> Contents:
    """Read every row once, leaf by leaf. Shows one moment where the session's transaction is REPEATABLE READ."""
    tables: dict[str, dict[str, Leaf]] = {ref.table: {} for ref in refs}
    for ref in refs:
        if ref.leaf is not None and ref.leaf_quoted is not None:
            text = QUERIES.text("rows", table=ref.leaf_quoted)
            count, checksum = session.execute(text).fetchone()  # type: ignore[misc]
            tables[ref.table][ref.leaf] = Leaf(ref.bound or "", count, checksum)
    objects = [row[0] for row in session.execute(QUERIES.text("objects")).fetchall()]
    return Contents(tables, objects)


def count_through_parents(session: Session, refs: list[TableRef]) -> dict[str, int]:
    """Count the rows of each partitioned table as queries see them: a leaf that is not attached is missed here."""
    parents = {ref.table: ref.table_quoted for ref in refs if ref.is_partitioned}
    counts = {}
    for name, quoted in parents.items():
        query = sql.SQL("SELECT count(*) FROM {}").format(sql.SQL(quoted))
        counts[name] = int(session.execute(query).fetchone()[0])  # type: ignore[index]
    return counts


# -- comparing: pure ----------------------------------------------------------------------------------------
def compare(wanted: Contents, found: Contents) -> list[str]:
    """Return how `found` differs from `wanted`, one line each; empty when they are equal."""
    problems = [f"table {name} is missing" for name in sorted(wanted.tables.keys() - found.tables.keys())]
    problems += [f"table {name} is extra" for name in sorted(found.tables.keys() - wanted.tables.keys())]
    for name in sorted(wanted.tables.keys() & found.tables.keys()):
        problems += compare_leaves(name, wanted.tables[name], found.tables[name])
    problems += [f"{name} is missing" for name in sorted(set(wanted.objects) - set(found.objects))]
    problems += [f"{name} is extra" for name in sorted(set(found.objects) - set(wanted.objects))]
    return problems


def compare_leaves(table: str, wanted: dict[str, Leaf], found: dict[str, Leaf]) -> list[str]:
    problems = [f"partition {name} of {table} is missing" for name in sorted(wanted.keys() - found.keys())]
    problems += [f"partition {name} of {table} is extra" for name in sorted(found.keys() - wanted.keys())]
    for name in sorted(wanted.keys() & found.keys()):
        problems += compare_rows(name, wanted[name], found[name])
    return problems


def compare_rows(name: str, wanted: Leaf, found: Leaf) -> list[str]:
    if wanted.bound != found.bound:
        return [f"table {name} is for {found.bound}, not {wanted.bound}"]
    if wanted.rows != found.rows:
        return [f"table {name} has {found.rows} rows, not {wanted.rows}"]
    if wanted.checksum != found.checksum:
        return [f"table {name} has other values: the checksum of its {wanted.rows} rows differs"]
    return []


def compare_parents(wanted: Contents, counts: dict[str, int]) -> list[str]:
    """Return the partitioned tables through which not all their rows are seen."""
    return [
        f"table {name} shows {number} rows, its partitions have {wanted.row_counts[name]}"
        for name, number in sorted(counts.items())
        if name in wanted.tables and number != wanted.row_counts[name]
    ]


def summarise(problems: list[str]) -> str:
    """Return the problems as one text of bounded length."""
    left = len(problems) - NAMED_AT_MOST
    return "; ".join(problems[:NAMED_AT_MOST]) + (f"; and {left} more" if left > 0 else "")
