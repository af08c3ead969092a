"""Arrays as PostgreSQL receives them, in binary. A batch has ten columns of up to 2,000 elements: psycopg looks at each
element by itself, and text would be written with quotes here, and read again there, twice.

The query says of which type an array is (`%(keys)s::text[]`); its parameters are bound by the server
(`pg.prepared.run_prepared`, `bridge.session.execute_bound`).
"""

import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID as Uuid

from psycopg.adapt import Dumper
from psycopg.pq import Format

NULL = b"\xff\xff\xff\xff"
HEADER = struct.Struct(
    ">iiIii"
)  # dimensions, whether there are NULLs, the elements' type, their number, lower bound
NUMBER = struct.Struct(">iq")
INTEGER = struct.Struct(">ii")
FLOAT = struct.Struct(">id")
JSONB_VERSION = b"\1"
BOOLEAN = {True: b"\0\0\0\1\1", False: b"\0\0\0\1\0", None: NULL}
EPOCH_SECONDS = 946_684_800  # PostgreSQL counts from 2000-01-01, in microseconds
# oids of types that are part of the protocol (pg_type.dat)
BOOL, INT8, INT4, TEXT, FLOAT8, TIMESTAMPTZ, UUID, JSONB = 16, 20, 23, 25, 701, 1184, 2950, 3802


@dataclass(frozen=True)
class Array:
    """A one-dimensional array as PostgreSQL sends and receives it."""

    data: bytes


class ArrayDumper(Dumper):
    """Hands an Array over as it is; the query's cast says of which type it is."""

    format = Format.BINARY

    def dump(self, obj: Array) -> bytes:
        return obj.data


def texts(values: Sequence[str | None]) -> Array:
    encoded = [None if value is None else value.encode() for value in values]
    return join(TEXT, [NULL if e is None else len(e).to_bytes(4, "big") + e for e in encoded])


def uuids(values: Sequence[str]) -> Array:
    return join(UUID, [b"\0\0\0\x10" + bytes.fromhex(value.replace("-", "")) for value in values])


def ids(values: Sequence[Uuid | None]) -> Array:
    return join(UUID, [NULL if value is None else b"\0\0\0\x10" + value.bytes for value in values])


def jsons(values: Sequence[str]) -> Array:
    encoded = [JSONB_VERSION + value.encode() for value in values]
    return join(JSONB, [len(each).to_bytes(4, "big") + each for each in encoded])


def integers(values: Sequence[int | None]) -> Array:
    pack = INTEGER.pack
    return join(INT4, [NULL if value is None else pack(4, value) for value in values])


def numbers(values: Sequence[int | None]) -> Array:
    pack = NUMBER.pack
    return join(INT8, [NULL if value is None else pack(8, value) for value in values])


def floats(values: Sequence[float | None]) -> Array:
    pack = FLOAT.pack
    return join(FLOAT8, [NULL if value is None else pack(8, value) for value in values])


def times(values: Sequence[datetime | None]) -> Array:
    pack = NUMBER.pack
    return join(
        TIMESTAMPTZ,
        [NULL if v is None else pack(8, round((v.timestamp() - EPOCH_SECONDS) * 1e6)) for v in values],
    )


def booleans(values: Iterable[bool | None]) -> Array:
    return join(BOOL, [BOOLEAN[value] for value in values])


def join(kind: int, elements: Sequence[bytes]) -> Array:
    """Put elements, each behind its length, together. PostgreSQL looks for NULLs itself."""
    return Array(HEADER.pack(1, 0, kind, len(elements), 1) + b"".join(elements))
