"""Handlers: the functions that do the agents' work. Users write `from tasks.handlers import handler`.

@handler("resize", max_retries=5, timeout_seconds=60)
def resize(context):
    return {"width": context.payload["width"] // 2}
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from pg.errors import MisterSmithError, Refused
from tasks.policy import Policy

Function = TypeVar("Function", bound=Callable[..., Any])


class UnknownTaskType(MisterSmithError):
    """No handler of this process does tasks of this type."""


@dataclass(frozen=True)
class Handler:
    task_type: str
    function: Callable[..., Any]
    policy: Policy

    @property
    def options(self) -> dict[str, Any]:
        """What is kept in tasks.types, for people and other processes."""
        return self.policy.options()


_handlers: dict[str, Handler] = {}


def handler(task_type: str, **options: Any) -> Callable[[Function], Function]:
    """Register the decorated function, sync or async, as the one that does tasks of `task_type`.

    It takes one argument, a `tasks.context.TaskContext`, and returns something that JSON can hold. `options` are the
    fields of `tasks.policy.Policy`. Raises Refused for bad options, and where another function has the type already.
    """
    if not 1 <= len(task_type) <= 100:
        raise Refused(f"task_type={task_type!r}: must have 1 to 100 characters")
    policy = Policy(**options)

    def register(function: Function) -> Function:
        known = _handlers.get(task_type)
        if known and _name_of(known.function) != _name_of(function):
            raise Refused(
                f"task type {task_type!r} has two handlers: {_name_of(known.function)} and {_name_of(function)}",
                "name one of them differently",
            )
        _handlers[task_type] = Handler(task_type, function, policy)
        return function

    return register


def _name_of(function: Callable[..., Any]) -> str:
    return f"{function.__module__}.{function.__qualname__}"


def all_handlers() -> list[Handler]:
    return [_handlers[task_type] for task_type in sorted(_handlers)]


def get_handler(task_type: str) -> Handler:
    """Return the handler; raise UnknownTaskType."""
    try:
        return _handlers[task_type]
    except KeyError:
        raise UnknownTaskType(
            f"no handler of this process does {task_type!r}",
            "write one in an app's handlers.py and name the app in MISTERSMITH_APPS",
        ) from None


def has_handler(task_type: str) -> bool:
    return task_type in _handlers


def policy_of(task_type: str) -> Policy:
    """Return what the type's handler declares; the defaults where this process has none."""
    known = _handlers.get(task_type)
    return known.policy if known else Policy()


def forget_handler(task_type: str) -> None:
    """Remove a handler again (for tests, and for code that is reloaded)."""
    _handlers.pop(task_type, None)
