"""A small fleet with a row of every kind, made by the rooms' own functions."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from django.contrib.auth.hashers import PBKDF2PasswordHasher
from django.contrib.auth.models import Group, User
from django.db import connection, transaction
from django.utils import timezone

from agents.checkpoints import create_checkpoint
from agents.liveness import judge_liveness, record_heartbeats
from agents.models import AgentStatus
from agents.registry import change_status, register_agent
from agents.state import write_state
from bridge.models import Conflict, Hydration, Phase, Process, QuarantinedRow
from knowledge.claims import Claim
from knowledge.embedder import embed_all
from knowledge.embeddings import find_model
from knowledge.facts import assert_facts
from messaging.channels import create_channel, subscribe
from messaging.models import Channel
from messaging.send import send
from pg.uuid7 import uuid7
from recovery.models import Backup, TestResult
from sessions.lifecycle import open_session
from tasks.claim import Failure, claim, fail, finish
from tasks.enqueue import After, NewTask, enqueue, enqueue_many
from tasks.models import Pause

PASSWORD = "a password of the tests"
SENTENCES = {
    "argparse": "The parser for command line options: it makes usage messages and reports wrong arguments.",
    "sqlite3": "A database in one file, without a server of its own.",
    "gzip": "Reads and writes compressed files.",
    "socket": "The low-level network interface.",
    "calendar": "Prints months and years, and says which day a date falls on.",
}


@dataclass(frozen=True)
class Fleet:
    planner: UUID
    readers: list[UUID]
    completed_task: UUID
    failed_task: UUID
    waiting_task: UUID
    checkpoint: UUID


def make_fleet() -> Fleet:
    with transaction.atomic():
        make_users()
        planner, readers = make_agents()
        completed, failed, waiting = make_tasks(planner, readers)
        checkpoint = make_state(readers[0])
        make_mail(planner, readers[0])
        make_trouble()
        make_bridge(readers[0])
        make_backups()
        open_session(timedelta(hours=1), agent_id=planner)
        make_knowledge(planner)
    embed_all(find_model(), None, lambda portion: None)
    return Fleet(planner, readers, completed, failed, waiting, checkpoint)


def make_users() -> None:
    """An administrator, and one user in each of the other groups. The digest is cheap: they live for a minute."""
    digest = PBKDF2PasswordHasher().encode(PASSWORD, "salt", iterations=1)
    User.objects.create(username="admin", password=digest, is_staff=True, is_superuser=True)
    for role in ("viewer", "operator"):
        user = User.objects.create(username=role, password=digest, is_staff=True)
        user.groups.add(Group.objects.get(name=role))


def make_agents() -> tuple[UUID, list[UUID]]:
    planner = register_agent("planner", "planner", capabilities={"plans": ["python"]}).pk
    readers = [
        register_agent(
            "reader", f"reader-{number}", parent=planner, configuration={"batch": 20, "quiet": True}
        ).pk
        for number in range(1, 4)
    ]
    for agent in (planner, *readers[:2]):
        change_status(agent, AgentStatus.ACTIVE, reason="start")
    record_heartbeats([planner, *readers[:2]])
    judge_liveness(timezone.now())
    return planner, readers


def make_tasks(planner: UUID, readers: list[UUID]) -> tuple[UUID, UUID, UUID]:
    completed = enqueue("echo", {"text": "hello"}, name="greet", created_by_agent=planner)
    failed = enqueue("echo", {"text": 13}, max_retries=0)
    first, second = claim("echo", readers[0], limit=2)
    finish(first, {"text": "hello"})
    fail(second, Failure("ValueError: 13 is no text", {"traceback": "..."}))
    running = [enqueue("echo", {"number": number}) for number in range(5)]
    claim("echo", readers[1], limit=2)
    parts = [
        After(running[-1], "start"),
        After(running[0], "resource"),
        *(After(task_id, "data") for task_id in running[1:3]),
    ]
    waiting = enqueue("echo", {"text": "later"}, depends_on=parts, unique_key="later")
    enqueue_many(
        NewTask(task_type="echo", name=f"report {number}", parent=waiting, depends_on=[waiting])
        for number in range(10)
    )
    Pause.objects.create(task_type="rebuild", reason="the index is being moved", paused_by="admin")
    return completed, failed, waiting


def make_state(agent: UUID) -> UUID:
    write_state(agent, {"current": "argparse", "read": {"modules": 12, "facts": 340}})
    checkpoint = create_checkpoint(agent, "before the big one", trigger_event="test")
    write_state(agent, {"current": "gzip"})
    return checkpoint.pk


def make_mail(sender: UUID, receiver: UUID) -> None:
    create_channel("news", Channel.Kind.TOPIC, description="what has been read")
    subscribe(receiver, "news", pattern="package.>")
    send({"package": "json"}, channel="news", from_agent=sender, subject="package.json")
    send({"modules": 12}, to_agent=receiver, from_agent=sender, subject="plan.ready")


def make_trouble() -> None:
    refused = {"target": "AGENT_STATE", "key": "a.b", "op": "U", "payload": {"value": 1}}
    QuarantinedRow.objects.create(
        outbox_id=1, created_at=timezone.now(), error="err_code 10054", attempts=3, **refused
    )
    Conflict.objects.create(
        target="AGENT_STATE", key="a.c", base_revision=3, kv_revision=4, kv_value="1", pg_value=2
    )


def make_bridge(agent: UUID) -> None:
    """A bridge that was seen an hour from now: it counts as running as long as the tests do."""
    told = {
        "relay": {"leads": True, "published": 1_203, "lag_ms": {"p50": 1.2, "p95": 3.4, "p99": 5.6}},
        "flusher AGENT_STATE": {
            "applied": 340,
            "pending": 2,
            "lag_ms": {"p50": 40.0, "p95": 90.0, "p99": 110.0},
        },
        "nats": {"is_connected": True, "reconnects": 0, "clock_apart_ms": 0.0},
    }
    seen = timezone.now() + timedelta(hours=1)
    Process.objects.create(process_id=uuid7(), host="control-1", pid=4_711, seen_at=seen, figures=told)
    Hydration.objects.create(agent_id=agent, phase=Phase.ACTIVE, keys=2, stored=2)


def make_backups() -> None:
    ended = timezone.now() - timedelta(hours=3)
    known = {"database_name": "mistersmith", "server_version": "18.6", "tool_version": "18.6"}
    sizes = {"database_bytes": 200 << 20, "size_bytes": 31 << 20, "manifest_sha256": "0" * 64}
    for days, status in enumerate(("verified", "complete")):
        begun = ended - timedelta(days=days)
        Backup.objects.create(
            status=status,
            location=f"logical/{days}",
            started_at=begun - timedelta(minutes=2),
            completed_at=begun,
            verified_at=begun if status == "verified" else None,
            **known,
            **sizes,
        )
    make_chain(ended, known, sizes)
    for hours, kind, seconds in (
        (3, "full_restore", 41),
        (27, "pitr", 38),
        (5, "partial_restore", 4),
        (6, "cross_system", 63),
    ):
        began = timezone.now() - timedelta(hours=hours, seconds=seconds)
        TestResult.objects.create(
            test_type=kind,
            backup_timestamp=ended,
            test_started_at=began,
            test_status="passed",
            test_completed_at=began + timedelta(seconds=seconds),
            data_verification_passed=True,
            performance_metrics={"rto_seconds": seconds, "rows": 1_204_318},
        )


def make_chain(ended: datetime, known: dict[str, Any], sizes: dict[str, Any]) -> None:
    """A base backup, one of what changed since, and one of both systems."""
    parent = None
    for days, kind in ((3, "base"), (2, "incremental"), (1, "cross_system")):
        begun = ended - timedelta(days=days)
        parent = Backup.objects.create(
            kind=kind,
            status="verified",
            location=f"{kind}/{days}",
            started_at=begun - timedelta(minutes=2),
            completed_at=begun,
            verified_at=begun,
            parent_id=parent.pk if parent else None,
            system_identifier="7712488133312399786",
            timeline=1,
            start_lsn=(4 - days) << 24,
            end_lsn=((4 - days) << 24) + 1,
            **known,
            **sizes,
        )


def make_knowledge(agent: UUID) -> None:
    assert_facts(
        Claim("module", name, "describes", text, source_agent_id=agent, confidence=0.9)
        for name, text in SENTENCES.items()
    )
    with connection.cursor() as cursor:
        cursor.execute("UPDATE knowledge.models SET state = 'active' WHERE is_default")
