"""What tasks give to those that wait for them."""

import json
from typing import Any
from uuid import UUID

from pg.queries import Queries

QUERIES = Queries("tasks")


def read_inputs(task_id: UUID) -> dict[str, Any]:
    """Return the results of the task's `data` dependencies, by their name, else by the other task's id.

    Those that are not completed yet, or whose execution retention has removed, are missing. One query.
    """
    return {row["name"]: json.loads(row["result"]) for row in QUERIES.run("inputs_of", {"task_id": task_id})}
