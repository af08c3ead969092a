"""Ends what hangs: cancels statements, terminates sessions."""

from collections.abc import Iterable

from django.db import connection, transaction

from operators.audit import Actor, record, require_reason

CANCEL, TERMINATE = "pg_cancel_backend", "pg_terminate_backend"


def cancel_statements(pids: Iterable[int], *, by: Actor, reason: str) -> list[int]:
    """Cancel the running statements of these sessions; return the pids that were signalled. Raises Refused."""
    return signal(CANCEL, "monitoring.cancel_statement", pids, by, reason)


def terminate_sessions(pids: Iterable[int], *, by: Actor, reason: str) -> list[int]:
    """End these sessions; what they had not committed is rolled back. Return the pids signalled. Raises Refused."""
    return signal(TERMINATE, "monitoring.terminate_session", pids, by, reason)


def signal(function: str, action: str, pids: Iterable[int], by: Actor, reason: str) -> list[int]:
    """Only sessions of clients that live are signalled: never our own, nor the server's own processes."""
    reason = require_reason(reason)
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(
            "SELECT pid, application_name, statement FROM monitoring.activity WHERE pid = ANY(%s)",
            [list(pids)],
        )
        found = {pid: {"application": name, "statement": text} for pid, name, text in cursor.fetchall()}
        cursor.execute(f"SELECT pid FROM unnest(%s::int[]) pid WHERE {function}(pid)", [list(found)])
        signalled = [row[0] for row in cursor.fetchall()]
        record(by, action, signalled, reason=reason, details={str(pid): found[pid] for pid in signalled})
    return signalled
