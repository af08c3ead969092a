"""The verb `bridge state`: the state API for operators. Not fenced: they steer the agent, they are not it."""

import json
import sys
from argparse import ArgumentTypeError
from typing import Any
from uuid import UUID

from agents.registry import get_agent
from bridge.state import AgentState
from bridge.state_values import StateValue
from operators.audit import Actor, record
from operators.command import Answer, OperatorCommand
from pg.errors import Refused


def json_value(text: str) -> Any:
    """Read any JSON from the command line."""
    try:
        return json.loads(text)
    except ValueError as error:
        raise ArgumentTypeError(f"not JSON (a text needs its quotes): {error}") from error


def add_state_verb(command: OperatorCommand) -> None:
    parser = command.add_verb("state", state, "an agent's state as agents see it: read, put, delete, watch")
    parser.add_argument("agent_id", type=UUID)
    parser.add_argument("keys", nargs="*", metavar="key", help="all of them without any")
    parser.add_argument(
        "--put", type=json_value, metavar="JSON", help="set the one key that is named", default=NOTHING
    )
    parser.add_argument("--delete", action="store_true", help="delete the keys that are named")
    parser.add_argument("--version", help="only where the key is still what was read: for --put and --delete")
    parser.add_argument("--ttl-seconds", type=int, help="the value expires by itself")
    parser.add_argument("--watch", action="store_true", help="print each change as a line of JSON")
    parser.add_argument("--seconds", type=float, help="stop watching after so long without a change")
    parser.add_argument("--reason", default="", help="why, for the audit")


NOTHING = object()


def state(
    agent_id: UUID,
    keys: list[str],
    put: Any,
    delete: bool,
    version: str | None,
    ttl_seconds: int | None,
    watch: bool,
    seconds: float | None,
    reason: str,
    **options: Any,
) -> Answer:
    """Read; or do what is asked for, and then read."""
    get_agent(agent_id)
    if (put is not NOTHING or version) and len(keys) != 1:
        raise Refused("--put and --version need exactly one key", "bridge state <agent_id> <key> --put '1'")
    if delete and not keys:
        raise Refused("--delete needs keys", "name them: bridge state <agent_id> <key> --delete")
    api = AgentState(agent_id)
    if put is not NOTHING:
        note(agent_id, keys, "bridge.put_state", reason)
        put_key(api, keys[0], put, version, ttl_seconds)
    if delete:
        note(agent_id, keys, "bridge.delete_state", reason)
        for key in keys:
            api.delete(key, version=version)
    if watch:
        return watch_keys(api, set(keys), seconds)
    found = api.read_many(keys or None)
    return Answer(items=[row_of(found[key]) for key in sorted(found)], counts={"keys": len(found)})


def put_key(api: AgentState, key: str, value: Any, version: str | None, ttl_seconds: int | None) -> None:
    if version is None:
        api.put(key, value, ttl_seconds=ttl_seconds)
    else:
        api.compare_and_set(key, value, version, ttl_seconds=ttl_seconds)


def note(agent_id: UUID, keys: list[str], action: str, reason: str) -> None:
    record(Actor.of_command(), action, [agent_id], reason=reason, details={"keys": keys})


def watch_keys(api: AgentState, keys: set[str], seconds: float | None) -> Answer:
    number = 0
    for change in api.watch(wait_seconds=seconds):
        if not keys or change.key in keys:
            line = {
                "key": change.key,
                "value": change.value,
                "version": change.version,
                "is_deleted": change.is_deleted,
            }
            sys.stdout.write(json.dumps(line, ensure_ascii=False) + "\n")
            sys.stdout.flush()
            number += 1
    return Answer(counts={"changes": number})


def row_of(found: StateValue) -> dict[str, Any]:
    return {
        "key": found.key,
        "version": found.version,
        "ttl_seconds": found.ttl_seconds,
        "value": found.value,
    }
