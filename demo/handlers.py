"""The demo's tasks: a planner lists the standard library's modules, readers read them; what they find in a package is
summed up.

A task may run again after a crash: facts that are known stay as they are, and a module that waits to be read is not
enqueued twice. Only a reader's own counters may then count a module twice.
"""

import tokenize
from typing import Any
from uuid import UUID

from django.db import transaction

from demo.claims import claim_of_package, claims_of
from demo.errors import UnknownModule
from demo.fleet import gather_fleet
from demo.journal import note_current, note_plan, note_read
from demo.modules import Module, find_module, list_modules, submodules_of
from demo.reader import read_source
from demo.talk import announce_package, announce_plan, read_mail
from knowledge.facts import assert_facts
from tasks.enqueue import After, NewTask, enqueue, enqueue_many
from tasks.handlers import PermanentFailure, TaskContext, handler


@handler("demo.plan", max_retries=3, retry_delay_seconds=2, timeout_seconds=120)
def plan(context: TaskContext) -> dict[str, Any]:
    """Enqueue one reading task per module: those in payload["modules"], or the whole standard library."""
    names = (context.payload or {}).get("modules")
    modules = [module_named(name) for name in names] if names else list_modules()
    context.progress(50, f"{len(modules)} modules found")
    fleet = gather_fleet()
    enqueue_readings(modules, fleet.readers, context.task_id, fleet.planner)
    note_plan(fleet.planner, len(modules))
    announce_plan(fleet, len(modules))
    return {"modules": len(modules)}


@handler("demo.read_module", max_retries=2, retry_delay_seconds=2, timeout_seconds=60)
def read_module(context: TaskContext) -> dict[str, Any]:
    """Read payload["module"] as the agent payload["reader"], assert what it says, enqueue a package's submodules."""
    module, reader = module_named(context.payload["module"]), reader_named(context.payload.get("reader"))
    note_current(reader, module.name)
    context.progress(10, f"reading {module.path.name}")
    with tokenize.open(module.path) as source:
        entities = read_source(source.read(), module.name)
    context.progress(50, f"{len(entities)} definitions")
    done = assert_facts(claims_of(module, entities, reader))
    inner = submodules_of(module)
    if inner:
        enqueue_package(module, inner, context.task_id, reader)
    note_read(reader, module.name, len(done.fact_ids))
    if module.is_package:
        announce_package(reader, module, len(done.fact_ids), len(inner))
    read_mail(reader)
    return {
        "module": module.name,
        "definitions": len(entities),
        "facts": len(done.fact_ids),
        "new_facts": done.added + done.superseded,
        "submodules": len(inner),
    }


@handler("demo.sum_up", max_retries=2, retry_delay_seconds=2, timeout_seconds=60)
def sum_up(context: TaskContext) -> dict[str, Any]:
    """Assert how much the package payload["package"] holds, by what the readings of its modules have returned."""
    package, reader = module_named(context.payload["package"]), reader_named(context.payload.get("reader"))
    results = list(context.inputs().values())
    definitions = sum(result["definitions"] for result in results)
    assert_facts([claim_of_package(package, len(results), definitions, reader)])
    return {"package": package.name, "modules": len(results), "definitions": definitions}


def enqueue_package(package: Module, inner: list[Module], parent: UUID, reader: UUID) -> None:
    """Enqueue the readings of a package's modules, and a task that waits for all their results."""
    with transaction.atomic():
        readings = enqueue_readings(inner, gather_fleet().readers, parent, reader)
        enqueue(
            "demo.sum_up",
            {"package": package.name, "reader": str(reader)},
            name=f"sum up {package.name}",
            parent=parent,
            created_by_agent=reader,
            unique_key=f"demo.sum_up:{package.name}",
            depends_on=[After(task_id, "data") for task_id in readings],
        )


def enqueue_readings(
    modules: list[Module], readers: tuple[UUID, ...], parent: UUID, created_by: UUID
) -> list[UUID]:
    """Enqueue one task per module in one statement, the readers in rotation."""
    return enqueue_many(
        NewTask(
            task_type="demo.read_module",
            payload={"module": module.name, "reader": str(readers[number % len(readers)])},
            name=f"read {module.name}",
            parent=parent,
            created_by_agent=created_by,
            unique_key=f"demo.read_module:{module.name}",
        )
        for number, module in enumerate(modules)
    )


def module_named(name: Any) -> Module:
    try:
        return find_module(str(name))
    except UnknownModule as error:
        raise PermanentFailure(str(error)) from error


def reader_named(text: str | None) -> UUID:
    """Return the reader of the payload; the first of the fleet for a task that was enqueued by hand."""
    return UUID(text) if text else gather_fleet().readers[0]
