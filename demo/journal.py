"""What the demo's agents keep in their state. Each note is one transaction under the agent's row lock."""

from datetime import timedelta
from typing import Any
from uuid import UUID

from django.db import transaction
from django.utils import timezone

from agents.checkpoints import create_checkpoint
from agents.models import Agent
from agents.state import read_state, write_state

CHECKPOINT_MODULES = 25
CURRENT_MODULE_LIFE = timedelta(minutes=5)  # a reader that died leaves no stale module behind


def note_current(reader: UUID, module: str) -> None:
    """Keep which module is being read; expires when nothing follows for five minutes."""
    write_state(reader, {"current_module": module}, expires_at=timezone.now() + CURRENT_MODULE_LIFE)


def note_read(reader: UUID, module: str, facts: int) -> None:
    """Note what came of a module and add it to the reader's counters; save a checkpoint after every 25th."""
    with transaction.atomic():
        lock(reader)
        counted = read_state(reader, ["modules_read", "facts"])
        modules = counted.get("modules_read", 0) + 1
        write_state(
            reader,
            {
                f"module.{module}": {"facts": facts, "read_at": timezone.now().isoformat(timespec="seconds")},
                "modules_read": modules,
                "facts": counted.get("facts", 0) + facts,
                "last_module": module,
                "current_module": "",
            },
        )
        if modules % CHECKPOINT_MODULES == 0:
            create_checkpoint(reader, f"{modules} modules", trigger_event="modules_read")


def note_plan(planner: UUID, modules: int) -> None:
    """Keep how many modules were planned, and a checkpoint of it."""
    write_state(planner, {"planned_modules": modules, "planned_at": timezone.now().isoformat()})
    create_checkpoint(planner, "planned", trigger_event="plan")


def note_progress(planner: UUID, progress: dict[str, Any]) -> None:
    write_state(planner, {"progress": progress})


def lock(agent_id: UUID) -> None:
    """Let one writer at a time read and write this agent's counters, until the transaction ends."""
    list(Agent.objects.select_for_update(no_key=True).filter(pk=agent_id).values_list("pk"))
