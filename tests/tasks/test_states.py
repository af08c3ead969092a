"""The state machine of docs/tasks.md, held against the database."""

import re

import pytest
from django.db import IntegrityError, connection, transaction

from tasks.models import TaskStatus
from tests.tasks.conftest import ROOT

pytestmark = pytest.mark.django_db
STATES = list(TaskStatus.values)


def rows(query):
    with connection.cursor() as cursor:
        cursor.execute(query)
        return cursor.fetchall()


def allowed():
    return set(rows("SELECT previous_status::text, new_status::text FROM tasks.status_transitions"))


def test_every_move_of_the_picture_is_allowed():
    picture = re.search(
        r"```mermaid\nstateDiagram-v2\n(.*?)```", (ROOT / "docs" / "tasks.md").read_text(), re.S
    )[1]
    drawn = set(re.findall(r"^    (\w+) --> (\w+)", picture, re.M))
    assert len(drawn) > 10
    assert drawn <= allowed(), "docs/tasks.md draws a move that the database refuses"


def test_completed_is_final():
    assert not {move for move in allowed() if move[0] == "completed"}


@pytest.mark.parametrize("before", STATES)
@pytest.mark.parametrize("after", STATES)
def test_plain_sql_makes_allowed_moves_and_no_others(before, after):
    """On the leaf of a registered type and by way of the parent alike: row triggers are cloned to leaves."""
    if before == after:
        return
    times = "started_at = now(), completed_at = {}"
    ended = ("completed", "failed", "cancelled")
    with connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO tasks.queue (task_type, status, blocked_by, started_at, completed_at)"
            " VALUES ('a', %s, 1, now(), CASE WHEN %s THEN now() END)",
            [before, before in ended],
        )
        move = f"UPDATE tasks.queue SET status = %s, {times.format('now()' if after in ended else 'NULL')}"
        if (before, after) in allowed():
            cursor.execute(move, [after])
            return
        with pytest.raises(IntegrityError, match=f"cannot go from {before} to {after}"), transaction.atomic():
            cursor.execute(move, [after])
