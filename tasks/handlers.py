"""What handler modules import, and the handlers that come with Mister Smith.

Each installed app's `handlers.py` is imported when Django starts, those of MISTERSMITH_APPS included.
"""

from typing import Any

from tasks.context import TaskContext
from tasks.policy import PermanentFailure, Retry, RetryLater, TaskTimedOut
from tasks.registry import handler

__all__ = ["PermanentFailure", "Retry", "RetryLater", "TaskContext", "TaskTimedOut", "handler"]


@handler("echo")
def echo(context: TaskContext) -> Any:
    """Return the payload: to try things out."""
    return context.payload
