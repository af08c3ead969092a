"""What doctor asks of the tasks room, and its figures for /metrics."""

from collections.abc import Iterator

from monitoring.defaults import declare_alarm
from monitoring.registry import Finding, register_check, register_metric
from pg.queries import Queries
from tasks import stats
from tasks.sweep import BATCH

QUERIES = Queries("tasks")
OLDEST_READY_SECONDS = 300
UNSWEPT_SECONDS = 30
Sample = tuple[dict[str, str], float]


def look_for_workers() -> Iterator[Finding]:
    """Worker processes register at their first task: ready tasks without any living worker are the bad sign. What only
    agents outside Celery do waits for them, not for workers."""
    age, workers = stats.oldest_ready_seconds(of_workers=True), stats.count_living_workers()
    yield Finding(
        age is None or workers > 0 or age < UNSWEPT_SECONDS,
        f"{workers} worker processes" + ("" if age is None else f", oldest ready task {age:.0f} s"),
        "start workers: `make up`, or `celery -A config worker`; and beat: `celery -A config beat`",
    )


def look_at_oldest_ready() -> Iterator[Finding]:
    age = stats.oldest_ready_seconds()
    yield Finding(
        age is None or age <= OLDEST_READY_SECONDS,
        "nothing waits" if age is None else f"the oldest ready task waits for {age:.0f} s",
        "see `manage.py tasks stats`; add workers, or resume paused types (`manage.py tasks resume`)",
    )


def look_for_silent_leases() -> Iterator[Finding]:
    row = QUERIES.run("silent_leases", {"grace_seconds": UNSWEPT_SECONDS}, limit=BATCH)[0]
    yield Finding(
        row["number"] == 0,
        f"{row['number']} leases expired and nobody took them back"
        if row["number"]
        else "no lease is overdue",
        "beat or its worker is down: `manage.py status`, `make up`; then the sweep takes them back by itself",
    )


def look_into_default_leaf() -> Iterator[Finding]:
    """Rows in DEFAULT are of types that no worker has registered; those of registered types would never be claimed."""
    rows = QUERIES.run("default_leaf_types", limit=BATCH)
    if not rows:
        yield Finding(True, "no task of an unregistered type")
    for row in rows:
        hint = "write a handler, or cancel them: `manage.py tasks list --type <type>`"
        if row["is_registered"]:
            hint = f"SELECT partitions.create_task_type_partition('{row['task_type']}')"
        yield Finding(
            False, f"{row['number']} tasks of type {row['task_type']} are in tasks.queue_default", hint
        )


def look_at_leaf_triggers() -> Iterator[Finding]:
    rows = QUERIES.run("incomplete_leaves")
    if not rows:
        yield Finding(True, "each leaf has the statement triggers of tasks.queue, and its function")
    for row in rows:
        yield Finding(False, f"{row['leaf']} lacks {row['lacks']}", row["cure"])


def read_tasks() -> Iterator[Sample]:
    for row in stats.count_tasks():
        yield {"type": row["task_type"], "status": row["status"]}, row["number"]


def read_oldest_ready() -> Iterator[Sample]:
    yield {}, stats.oldest_ready_seconds() or 0.0


def read_workers() -> Iterator[Sample]:
    yield {}, stats.count_living_workers()


def read_recent() -> Iterator[Sample]:
    yield {}, stats.recent_executions()["last_minute"]


def register() -> None:
    register_check("tasks.workers", look_for_workers)
    register_check("tasks.oldest_ready", look_at_oldest_ready)
    register_check("tasks.leases", look_for_silent_leases)
    register_check("tasks.default_leaf", look_into_default_leaf)
    register_check("tasks.leaf_triggers", look_at_leaf_triggers)
    register_metric("mistersmith_tasks", "Tasks by type and status, each counted up to 10000.", read_tasks)
    register_metric(
        "mistersmith_tasks_oldest_ready_seconds", "Age of the oldest ready task.", read_oldest_ready
    )
    register_metric("mistersmith_task_workers", "Living worker processes.", read_workers)
    register_metric(
        "mistersmith_tasks_completed_last_minute", "Attempts completed in the last minute.", read_recent
    )
    declare_alarm(
        "a transaction is held open",
        "mistersmith_database_oldest_transaction_seconds",
        warning=300,
        critical=3600,
        description="What was deleted or updated since cannot be cleaned up: claims slow down with every task.",
        hint="admin, Monitoring, Sessions: who holds it, and end that session; or manage.py doctor",
    )
