"""COPY of rows into a table, in binary, on Django's connection: the server stores some while the next are written.

The format is that of PostgreSQL's manual (COPY, "Binary Format"): each value behind its length, as in `pg.arrays`.
"""

import struct
from collections.abc import Iterable, Sequence
from itertools import chain, repeat

from django.db import DEFAULT_DB_ALIAS, connections

from pg.arrays import Array
from pg.prepared import cursor_of_server

SIGNATURE = b"PGCOPY\n\xff\r\n\0" + bytes(8)  # no flags, no further header
END = b"\xff\xff"
NUMBER = struct.Struct(">h")


def copy_rows(table: str, names: Sequence[str], chunks: Iterable[Sequence[Array]]) -> None:
    """Store rows in `table` by one statement, in the current transaction or one of its own.

    `chunks`: of some rows at a time an array per column, of its type. What is made lazily there is made while the
    server works; it must not use the connection. Raises what Django's cursors raise.
    """
    number = NUMBER.pack(len(names))
    statement = f"COPY {table} ({', '.join(names)}) FROM STDIN (FORMAT BINARY)"
    db = connections[DEFAULT_DB_ALIAS]
    cursor = cursor_of_server(db)
    with db.wrap_database_errors, cursor.copy(statement) as copy:
        copy.write(SIGNATURE)
        for columns in chunks:
            rows = zip(repeat(number), *(column.elements for column in columns), strict=False)
            copy.write(b"".join(chain.from_iterable(rows)))
        copy.write(END)
