"""manage.py tasks register: types whose tasks agents outside Celery do."""

from argparse import ArgumentParser
from typing import Any

from operators.audit import Actor
from operators.command import Answer, OperatorCommand
from tasks.agent_types import register_for_agents
from tasks.enqueue import parse_payload
from tasks.management.arguments import positive, rate
from tasks.models import TaskPriority
from tasks.policy import Policy


def add_register(command: OperatorCommand) -> None:
    words = "make a task type that agents outside Celery do, or change its options"
    parser: ArgumentParser = command.add_verb("register", register, words)
    parser.add_argument("task_type")
    parser.add_argument("--max-retries", type=int)
    parser.add_argument("--retry-delay-seconds", type=float)
    parser.add_argument("--timeout-seconds", type=float)
    parser.add_argument("--priority", choices=TaskPriority.values)
    parser.add_argument("--max-running", type=positive)
    parser.add_argument("--rate", type=rate, metavar="N/SECONDS")
    parser.add_argument("--payload-schema", help="a JSON Schema, as JSON")
    parser.add_argument("--reason", default="")


def register(
    task_type: str, rate: tuple[int, float] | None, payload_schema: str | None, reason: str, **given: Any
) -> Answer:
    names = ("max_retries", "retry_delay_seconds", "timeout_seconds", "priority", "max_running")
    options = {name: given[name] for name in names if given[name] is not None}
    if rate:
        options["rate_limit"], options["rate_seconds"] = rate
    if payload_schema is not None:
        options["payload_schema"] = parse_payload(payload_schema)
    leaf = register_for_agents(task_type, Policy(**options), Actor.of_command(), reason)
    return Answer(items=[{"task_type": task_type, "leaf": leaf, **options}])
