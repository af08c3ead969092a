"""What the workers of the fault tests run."""

import fcntl
import os
import time
from pathlib import Path

from tasks.handlers import handler


@handler("faults.alone", max_retries=100, retry_delay_seconds=0)
def alone(context):
    """Work for `seconds`; a second process on the same task at the same time leaves `<task>.doubled` in `dir`.

    `<task>.running` holds the pid meanwhile, so that a test can kill it in mid-task.
    """
    place = Path(context.payload["dir"])
    with (place / f"{context.task_id}.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            (place / f"{context.task_id}.doubled").touch()
            raise
        running = place / f"{context.task_id}.running"
        running.write_text(str(os.getpid()))
        time.sleep(context.payload["seconds"])
        running.unlink()
    return context.attempt
