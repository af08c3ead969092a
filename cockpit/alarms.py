"""The alarms that every installation begins with, and the way to send them over NATS."""

import json
from typing import Any

from bridge import connection
from monitoring.defaults import declare_alarm
from monitoring.senders import register_sender

SEND_SECONDS = 5
DAY_SECONDS = 86_400


def register() -> None:
    register_sender("nats", send_nats)
    declare_alarms()


def send_nats(subject: str, body: dict[str, Any]) -> None:
    """Publish the body as JSON and wait until the server has it. Raises Unreachable."""

    async def publish(client: connection.Client) -> None:
        await client.nc.publish(subject, json.dumps(body).encode())
        await client.nc.flush(SEND_SECONDS)

    connection.call(publish, SEND_SECONDS)


def declare_alarms() -> None:
    declare_alarm(
        "outbox is late",
        "mistersmith_outbox_oldest_seconds",
        warning=1,
        critical=5,
        hold_seconds=30,
        description="Writes reach JetStream late.",
        hint="manage.py bridge status: is a relay leading, does NATS answer?",
    )
    declare_alarm(
        "outbox rows refused",
        "mistersmith_outbox_quarantined_rows",
        warning=0,
        description="NATS refuses rows for good; later ones of their keys wait.",
        hint="admin, Bridge, Quarantine: send them again, or drop them",
    )
    declare_alarm(
        "partitions run out",
        "mistersmith_partition_cover_days",
        direction="below",
        warning=7,
        critical=3,
        description="Days ahead that have a partition; without one, inserts fail.",
        hint="manage.py partitions apply; is beat running?",
    )
    declare_alarm(
        "backup is old",
        "mistersmith_backup_verified_age_seconds",
        warning=26 * 3600,
        critical=3 * DAY_SECONDS,
        description="Age of the newest verified backup.",
        hint="manage.py backup daily, and see what it says",
    )
    declare_alarm(
        "tasks wait",
        "mistersmith_tasks_oldest_ready_seconds",
        warning=300,
        critical=3600,
        hold_seconds=60,
        description="A ready task is not taken.",
        hint="manage.py tasks stats: are there workers for its type, is it paused?",
    )
    declare_alarm(
        "no worker",
        "mistersmith_task_workers",
        direction="below",
        critical=1,
        hold_seconds=60,
        description="No worker process lives.",
        hint="manage.py status; start one: celery -A config worker",
    )
    declare_alarm(
        "agents are lost",
        "mistersmith_agents",
        labels={"status": "active", "liveness": "lost"},
        warning=0,
        hold_seconds=60,
        description="Active agents whose heartbeats stopped.",
        hint="manage.py agents list --liveness lost",
    )
