"""Arrays as PostgreSQL receives them, in binary. A batch has ten columns of up to 2,000 elements: psycopg looks at each
element by itself, and text would be written with quotes here, and read again there, twice.

The query says of which type an array is (`%(keys)s::text[]`); its parameters are bound by the server
(`pg.prepared.run_prepared`, `bridge.session.execute_bound`). COPY takes the same elements (`pg.copying`).
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
INTERVAL = struct.Struct(">iqii")  # microseconds, days, months
JSONB_VERSION = b"\1"
BOOLEAN = {True: b"\0\0\0\1\1", False: b"\0\0\0\1\0", None: NULL}
EPOCH_SECONDS = 946_684_800  # PostgreSQL counts from 2000-01-01, in microseconds
# oids of types that are part of the protocol (pg_type.dat)
BOOL, INT8, INT4, TEXT, FLOAT8 = 16, 20, 23, 25, 701
VARCHARS, VARCHAR, TIMESTAMPTZ, INTERVAL_TYPE, UUID, JSONB = 1015, 1043, 1184, 1186, 2950, 3802


@dataclass(frozen=True)
class Array:
    """A one-dimensional array of the type with that oid: its elements, each behind its length."""

    kind: int
    elements: Sequence[bytes]

    @property
    def data(self) -> bytes:
        """As PostgreSQL sends and receives it; it looks for NULLs itself."""
        return HEADER.pack(1, 0, self.kind, len(self.elements), 1) + b"".join(self.elements)


class ArrayDumper(Dumper):
    """Hands an Array over as it is; the query's cast says of which type it is."""

    format = Format.BINARY

    def dump(self, obj: Array) -> bytes:
        return obj.data


def texts(values: Sequence[str | None]) -> Array:
    encoded = [None if value is None else value.encode() for value in values]
    return Array(TEXT, [NULL if e is None else len(e).to_bytes(4, "big") + e for e in encoded])


def lists(values: Sequence[Sequence[str] | None]) -> Array:
    """A varchar[] in each row, for COPY alone: no array can hold arrays of several lengths."""
    encoded = [None if value is None else Array(VARCHAR, texts(value).elements).data for value in values]
    return Array(VARCHARS, [NULL if e is None else len(e).to_bytes(4, "big") + e for e in encoded])


def uuids(values: Sequence[str]) -> Array:
    return Array(UUID, [b"\0\0\0\x10" + bytes.fromhex(value.replace("-", "")) for value in values])


def ids(values: Sequence[Uuid | None]) -> Array:
    return Array(UUID, [NULL if value is None else b"\0\0\0\x10" + value.bytes for value in values])


def jsons(values: Sequence[str]) -> Array:
    encoded = [JSONB_VERSION + value.encode() for value in values]
    return Array(JSONB, [len(each).to_bytes(4, "big") + each for each in encoded])


def integers(values: Sequence[int | None]) -> Array:
    pack = INTEGER.pack
    return Array(INT4, [NULL if value is None else pack(4, value) for value in values])


def numbers(values: Sequence[int | None]) -> Array:
    pack = NUMBER.pack
    return Array(INT8, [NULL if value is None else pack(8, value) for value in values])


def floats(values: Sequence[float | None]) -> Array:
    pack = FLOAT.pack
    return Array(FLOAT8, [NULL if value is None else pack(8, value) for value in values])


def times(values: Sequence[datetime | None]) -> Array:
    pack = NUMBER.pack
    return Array(
        TIMESTAMPTZ,
        [NULL if v is None else pack(8, round((v.timestamp() - EPOCH_SECONDS) * 1e6)) for v in values],
    )


def intervals(seconds: Sequence[float]) -> Array:
    pack = INTERVAL.pack
    return Array(INTERVAL_TYPE, [pack(16, round(each * 1e6), 0, 0) for each in seconds])


def booleans(values: Iterable[bool | None]) -> Array:
    return Array(BOOL, [BOOLEAN[value] for value in values])
