"""No statement locks rows and prunes partitions while it runs: PostgreSQL 18 loses rows in it (docs/decisions/0024)."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from django.apps import apps
from django.db import connection

from agents import liveness, state
from bridge import sources
from pg.operations import read_sql
from pg.queries import HEADING
from tasks.enqueue import NewTask, enqueue_many
from tasks.leaves import register_types
from tasks.registry import all_handlers
from tests.schema.catalog import rows
from tests.versions import asked_major

pytestmark = pytest.mark.django_db
ROOMS = ("bridge", "cockpit", "knowledge", "messaging", "partitions", "recovery", "sessions", "tasks")
LOCKS = re.compile(r"\bFOR\s+(NO\s+KEY\s+UPDATE|UPDATE|KEY\s+SHARE|SHARE)\b", re.IGNORECASE)
TEXTS = {"$leaf": "tasks.queue_default", "$limit": "10", "$filter": "true"}
# a plan that prunes wherever it could: a loop over the rows wanted, and an index look-up of each
SETTINGS = {
    "enable_seqscan": "off",
    "enable_hashjoin": "off",
    "enable_mergejoin": "off",
    "enable_material": "off",
    "debug_print_plan": "on",
    "debug_pretty_print": "off",
    "client_min_messages": "log",
}
CURE = (
    "lock by a statement that joins no partitioned table, then change what is locked (as tasks.lock_tasks), or plan"
    " without pruning (SET LOCAL enable_partition_pruning = off): docs/decisions/0024"
)
# run where pruning is off: what sees to that
UNPRUNED = {
    "lock_agent_state": "bridge.session.PLANS",
    "settle_agent_state": "bridge.conflicts.BEGUN",
    "lock_session_data": "bridge.session.PLANS",
}
# locks below a subquery that joins nothing; the loop that prunes is outside of it, and changes what is locked by then
PRUNES_OUTSIDE = {"promote_due"}


def locking_queries() -> Iterator[tuple[str, str]]:
    left_out = set() if apps.is_installed("knowledge") else {"knowledge"}  # where pgvector is missing
    for room in sorted(set(ROOMS) - left_out):
        _, *parts = HEADING.split(read_sql(room, "queries"))
        for name, text in zip(parts[::2], parts[1::2], strict=True):
            if LOCKS.search(re.sub(r"--.*", "", text)):
                yield f"{room}.{name}", text
    inline = {"agents.SWEEP": liveness.SWEEP, "agents.LOCK_EXPIRED": state.LOCK_EXPIRED}
    yield from inline.items()
    yield "bridge.sources", sources.PURGE


@contextmanager
def planned(**settings: str) -> Iterator[list[str]]:
    """Collect the planner's own notes of each plan that is made."""
    notes: list[str] = []

    def take(diagnostic: Any) -> None:
        if diagnostic.message_primary == "plan:":
            notes.append(re.sub(r"\s+", " ", diagnostic.message_detail))

    connection.ensure_connection()
    connection.connection.add_notice_handler(take)
    with connection.cursor() as cursor:
        for name, value in (SETTINGS | settings).items():
            cursor.execute(f"SET LOCAL {name} = {value}")
    try:
        yield notes
    finally:
        connection.connection.remove_notice_handler(take)


def is_wrong(plan: str) -> bool:
    return "{LOCKROWS " in plan and ":exec_pruning_steps ({" in plan


def plan_of(text: str, **settings: str) -> str:
    """Return the generic plan of a query of ours."""
    for name, value in TEXTS.items():
        text = text.replace(name, value)
    names = list(dict.fromkeys(re.findall(r"%\((\w+)\)s", text)))
    for place, name in enumerate(names, 1):
        text = text.replace(f"%({name})s", f"${place}")
    places = iter(range(len(names) + 1, 100))
    text = re.sub(r"%s", lambda _: f"${next(places)}", text).replace("%%", "%")
    with planned(**settings) as notes, connection.cursor() as cursor:
        cursor.connection.execute(f"EXPLAIN (GENERIC_PLAN) {text}")  # psycopg's own: nothing is bound
    return next(note for note in notes if ":commandType 6" not in note)  # 6: EXPLAIN itself


QUERIES = dict(locking_queries())
JOINED = """
WITH given AS MATERIALIZED (SELECT * FROM unnest($1::uuid[]) AS g (agent_id))
SELECT FROM agents.state s JOIN given g ON g.agent_id = s.agent_id ORDER BY s.state_key FOR UPDATE OF s
"""
BY_IDS = """
WITH wanted AS (SELECT i.task_id, i.task_type FROM tasks.identity i WHERE i.task_id = ANY($1::uuid[]))
SELECT q.status FROM wanted w JOIN tasks.queue q ON q.task_id = w.task_id AND q.task_type = w.task_type
ORDER BY q.task_id FOR UPDATE OF q
"""


@pytest.fixture
def filled():
    """Tasks in several leaves, and what the planner knows of them."""
    register_types()
    types = [item.task_type for item in all_handlers()][:4]
    enqueue_many(NewTask(task_type=types[number % len(types)]) for number in range(400))
    with connection.cursor() as cursor:
        cursor.execute("ANALYZE tasks.queue, tasks.identity")


@pytest.mark.skipif(asked_major() < 16, reason="EXPLAIN (GENERIC_PLAN) is of PostgreSQL 16")
def test_a_statement_that_locks_and_prunes_is_found():
    assert is_wrong(plan_of(JOINED))
    assert not is_wrong(plan_of(JOINED.replace("FOR UPDATE OF s", "")))
    assert not is_wrong(plan_of(JOINED, enable_partition_pruning="off"))


@pytest.mark.skipif(asked_major() < 16, reason="EXPLAIN (GENERIC_PLAN) is of PostgreSQL 16")
def test_no_query_locks_rows_and_prunes_while_it_runs(filled):
    wrong = []
    for name, text in QUERIES.items():
        settings = {"enable_partition_pruning": "off" if name.partition(".")[2] in UNPRUNED else "on"}
        if is_wrong(plan_of(text, **settings)) and name.partition(".")[2] not in PRUNES_OUTSIDE:
            wrong.append(name)
    assert not wrong, f"{wrong}: {CURE}"


@pytest.mark.skipif(asked_major() < 16, reason="EXPLAIN (GENERIC_PLAN) is of PostgreSQL 16")
def test_a_lock_of_tasks_found_by_their_ids_is_found(filled):
    """As `cancel` was: among empty tables the planner would begin with another one, and prune nothing."""
    assert is_wrong(plan_of(BY_IDS))


# -- in functions ---------------------------------------------------------------------------------------------
JOINS = re.compile(r"\b(JOIN|LATERAL|EXISTS|USING)\b")


def test_no_function_locks_rows_of_a_join_where_it_prunes():
    functions = rows(
        """
        SELECT p.oid::regprocedure::text, p.prosrc FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
        WHERE n.nspname = ANY (%s) AND NOT 'enable_partition_pruning=off' = ANY (COALESCE(p.proconfig, '{}'))
        """,
        [
            [
                "agents",
                "bridge",
                "knowledge",
                "messages",
                "monitoring",
                "partitions",
                "recovery",
                "sessions",
                "tasks",
            ]
        ],
    )
    locking = [
        (name, statement)
        for name, source in functions
        for statement in re.sub(r"--.*", "", source).split(";")
        if LOCKS.search(statement)
    ]
    assert "tasks.lock_tasks(uuid[])" in {name for name, _ in locking}
    wrong = [name for name, statement in locking if JOINS.search(statement)]
    assert not wrong, f"{wrong}: {CURE}"
