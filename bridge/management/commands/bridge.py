"""`manage.py bridge`: keep JetStream in step with PostgreSQL."""

import gc
import json
import signal
import sys
import threading
from typing import Any

from django.core.serializers.json import DjangoJSONEncoder
from django.db import connection as db

from bridge import setup, topology
from bridge.exhausted import ExhaustedReader
from bridge.fence import has_leader
from bridge.figures import Reporter, read_bridges, rows_of
from bridge.flush_runner import Flusher
from bridge.heartbeats import Heartbeats
from bridge.held import apply_as_declared, rows_of_server
from bridge.hydration_command import add_hydration_verbs
from bridge.models import DeadLetter, QuarantinedRow
from bridge.outbox import read_depth
from bridge.part import run_parts
from bridge.progress import ProgressReader
from bridge.received import MessageReader
from bridge.reconcile import reconcile
from bridge.redrive import Redriven, redrive_letters, redrive_rows
from bridge.runner import Relay
from bridge.session import open_session
from bridge.state_command import add_state_verb
from bridge.tail import describe, watch
from bridge.targets import TARGETS
from bridge.task_service import TaskService
from operators.audit import Actor
from operators.command import Answer, OperatorCommand
from pg.errors import MisterSmithError

LISTED = 100


class Command(OperatorCommand):
    help = "Keep the JetStream buckets and streams in step with PostgreSQL."

    def add_verbs(self) -> None:
        self.add_verb("run", run, "keep the stores in step until stopped; a second one stands by")
        plan = self.add_verb("setup", run_setup, "create and update buckets and streams as declared")
        plan.add_argument("--dry-run", action="store_true", help="only print the steps")
        compare = self.add_verb("reconcile", run_reconcile, "compare PostgreSQL with KV and repair KV")
        compare.add_argument("--dry-run", action="store_true", help="only report")
        add_hydration_verbs(self)
        add_state_verb(self)
        again = self.add_verb("redrive", run_redrive, "send through again what was set apart")
        again.add_argument("--consumer", help="only dead letters of this consumer (flusher, ...)")
        again.add_argument("--rows", action="store_true", help="only outbox rows that NATS refused")
        again.add_argument("--dry-run", action="store_true", help="only list them")
        again.add_argument("--reason", default="", help="why; kept in the audit")
        live = self.add_verb("tail", run_tail, "show a stream's events as they come (consumer `monitoring`)")
        live.add_argument(
            "--stream", default="AGENT_STATE", choices=[stream.name for stream in topology.STREAMS]
        )
        live.add_argument("--subject", help="only these, for instance agents.lifecycle.>")
        live.add_argument("--limit", type=int, help="end after so many")
        self.add_verb("status", show_status, "what waits, who leads, what the server holds")


# How long a thread that has PostgreSQL's answer waits for those that decode and acknowledge, ten times for each batch
# of the flusher. With Python's 5 ms the small statements of a batch took a third of its time (on a busy machine).
SWITCH_SECONDS = 0.0005


def run(**options: Any) -> Answer:
    """Relay, flush and read until SIGTERM or SIGINT; batches in hand are finished."""
    is_stopping = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: is_stopping.set())
    parts = make_parts()
    gc.freeze()  # what is imported by now stays: else each full collection walks through all of it
    sys.setswitchinterval(SWITCH_SECONDS)
    return Answer(ok=run_parts([*parts, Reporter(parts)], is_stopping))


def make_parts() -> list[Any]:
    """Return what each bridge is made of: a relay, and a reader of each consumer."""
    return [
        Relay(),
        *(Flusher(bucket) for bucket in TARGETS),
        Heartbeats(),
        MessageReader(),
        ProgressReader(),
        ExhaustedReader(),
        TaskService(),
    ]


def run_tail(stream: str, subject: str | None, limit: int | None, **options: Any) -> Answer:
    """Print one event a line, as JSON, until interrupted or `limit` were shown."""
    shown = 0
    try:
        for letter in watch(stream, subject):
            if letter is not None:
                sys.stdout.write(json.dumps(describe(letter), cls=DjangoJSONEncoder) + "\n")
                sys.stdout.flush()
                shown += 1
            if limit is not None and shown >= limit:
                break
    except (KeyboardInterrupt, BrokenPipeError):
        pass
    return Answer()


def run_setup(dry_run: bool, **options: Any) -> Answer:
    """Plan, and apply what can be applied; what a server can't change in place is listed and exits 1."""
    found = setup.read_found()
    steps = setup.make_plan(found) if dry_run else apply_as_declared(found)
    refused = [step for step in steps if step.action == "refuse"]
    warnings = [setup.payload_warning(found)] if setup.payload_warning(found) else []
    return Answer(
        steps=[{"action": step.action, "object": step.object, "why": step.why} for step in steps],
        warnings=warnings,
        ok=not refused,
    )


def run_reconcile(dry_run: bool, **options: Any) -> Answer:
    """Exit 1 when something is wrong and stays wrong."""
    with open_session() as session:
        reports = reconcile(session, repair=not dry_run)
    items = [report.as_item() for report in reports]
    counts = {name: sum(item[name] for item in items) for name in items[0] if name != "bucket"}
    named = [line for report in reports for line in report.named]
    return Answer(items=items, counts=counts, warnings=named, ok=counts["left"] == 0)


def run_redrive(consumer: str | None, rows: bool, dry_run: bool, reason: str, **options: Any) -> Answer:
    """Send all through again; exit 1 when some fail again."""
    letters = DeadLetter.objects.none() if rows else DeadLetter.objects.order_by("pk")
    letters = letters.filter(consumer=consumer) if consumer else letters
    quarantined = QuarantinedRow.objects.none() if consumer else QuarantinedRow.objects.order_by("pk")
    if dry_run:
        return Answer(
            items=[*map(describe_letter, letters[:LISTED]), *map(describe_row, quarantined[:LISTED])]
        )
    by = Actor.of_command()
    ids, row_ids = list(letters.values_list("pk", flat=True)), list(quarantined.values_list("pk", flat=True))
    applied = redrive_letters(ids, by=by, reason=reason) if ids else Redriven(0, 0)
    sent = redrive_rows(row_ids, by=by, reason=reason) if row_ids else Redriven(0, 0)
    left = [describe_letter(letter) for letter in letters[:LISTED]]
    counts = {"applied": applied.done, "failed_again": applied.left, "back_in_outbox": sent.done}
    return Answer(items=left, counts=counts, ok=not applied.left)


def describe_letter(letter: DeadLetter) -> dict[str, Any]:
    return {
        "id": letter.pk,
        "what": letter.consumer,
        "subject": letter.subject,
        "attempts": letter.attempts,
        "error": letter.error,
    }


def describe_row(row: QuarantinedRow) -> dict[str, Any]:
    return {
        "id": row.pk,
        "what": "outbox row",
        "subject": f"{row.target} {row.key}",
        "attempts": row.attempts,
        "error": row.error,
    }


def show_status(**options: Any) -> Answer:
    """Exit 1 when no relay leads, rows are in quarantine, or the topology has drifted."""
    depth, leads = read_depth(db), has_leader(db)
    items, warnings = describe_server()
    items += [{**dict.fromkeys(SERVER_HEADS, ""), **describe_part(row)} for row in rows_of(read_bridges(db))]
    counts = {
        "outbox_rows": depth.rows,
        "outbox_oldest_seconds": round(depth.oldest_seconds),
        "relay_leading": int(leads),
        "quarantined": depth.quarantined,
        "conflicts": depth.conflicts,
        "dead_letters": depth.dead_letters,
    }
    ok = (
        leads
        and not depth.quarantined
        and not depth.dead_letters
        and not warnings
        and not any(item["drift"] for item in items)
    )
    return Answer(items=items, counts=counts, warnings=warnings, ok=ok)


SERVER_HEADS = ("name", "kind", "messages", "bytes", "drift")


def describe_part(row: dict[str, Any]) -> dict[str, Any]:
    """Return a part's figures under the heads of the server's table."""
    lags = " ".join(f"{name}={row[name]}" for name in ("p50_ms", "p95_ms", "p99_ms") if row[name] != "")
    return {
        "name": f"{row['bridge']} {row['part']}",
        "kind": "part",
        "messages": row["pending"],
        "did": f"{lags} {row['did']}",
    }


def describe_server() -> tuple[list[dict[str, Any]], list[str]]:
    """Return what the server holds per bucket and stream, and what keeps us from knowing."""
    try:
        found = setup.read_found()
    except MisterSmithError as error:
        return [], [f"{error} HINT: {error.hint}"]
    items = [{**row, "did": ""} for row in rows_of_server(found, setup.make_plan(found))]
    return items, []
