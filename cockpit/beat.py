"""Makes Celery's beat stop when it is told to.

Celery 5.7 raises SystemExit from its signal handler. When the signal comes while a message is being sent, closing
the connection replaces that exception with another, which beat takes for a failed message and goes on.
"""

import signal
from typing import Any

from celery.signals import beat_init


@beat_init.connect(dispatch_uid="cockpit.beat")
def stop_even_while_sending(sender: Any, **kwargs: Any) -> None:
    """`sender` is beat's service: marking it as stopped ends its loop even where the exception gets lost."""

    def stop(number: int, frame: Any) -> None:
        sender.stop()
        raise SystemExit

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
