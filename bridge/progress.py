"""How far a running task is, as its agent tells on `tasks.started.<task_id>.<agent_id>`, into the task: from there the
relay carries it to TASK_STATE. What the control plane published itself is known."""

import json
from typing import Any
from uuid import UUID

from bridge import topology
from bridge.changes import Letter
from bridge.reader import Done, Reader
from bridge.targets import QUERIES
from pg.errors import Refused
from pg.json import dump_json

HINT = "see docs/tasks.md, Agents on NATS"


class ProgressReader(Reader):
    consumer = f"TASK_EXECUTION/{topology.PROGRESS}"
    origin = ""  # TASK_STATE is PostgreSQL's own bucket

    def apply(self, letter: Letter) -> Done:
        task_id, agent_id = read_subject(letter.subject)
        progress = read_progress(letter.data) | {"sequence": letter.sequence}
        values = {
            "task_id": task_id,
            "agent_id": agent_id,
            "sequence": letter.sequence,
            "progress": dump_json(progress),
        }
        (found,) = QUERIES.run("note_progress", values)
        if not found["is_known"]:
            raise Refused(f"{task_id}: no such task", HINT)
        return Done.APPLIED if found["is_noted"] else Done.STALE


def read_subject(subject: str) -> tuple[UUID, UUID]:
    tokens = subject.split(".")
    try:
        return UUID(tokens[2]), UUID(tokens[3])
    except (IndexError, ValueError):
        raise Refused(f"{subject}: must be tasks.started.<task id>.<agent id>", HINT) from None


def read_progress(data: bytes) -> dict[str, Any]:
    """Return percent (0 to 100, None: not told) and note."""
    try:
        told = json.loads(data)
        told = told.get("progress", told)
        percent, note = told.get("percent"), told.get("note", "")
    except (ValueError, AttributeError):
        raise Refused("a JSON object with percent and note is wanted", HINT) from None
    is_number = isinstance(percent, int | float) and not isinstance(percent, bool)
    if percent is not None and not (is_number and 0 <= percent <= 100):
        raise Refused(f"percent={percent!r}: must be 0 to 100", HINT)
    if not isinstance(note, str):
        raise Refused(f"note={note!r}: must be text", HINT)
    return {"percent": percent, "note": note}
