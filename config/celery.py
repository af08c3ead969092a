"""The Celery application. Jobs are found in each room's `jobs.py`, task handlers in `handlers.py`."""

import os
import signal
import threading
from typing import Any

from celery import Celery, signals
from kombu.transport import virtual

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")

# A worker that loses its broker would put back what it had fetched, and kombu 5.7's Redis transport ends the worker
# when it fails at that. Nothing needs it: tickets and jobs that get lost are sent again by the sweep and by beat.
virtual.Channel.do_restore = False

app = Celery("mistersmith")
app.config_from_object("django.conf:settings", namespace="CELERY")
app.autodiscover_tasks(related_name="jobs")


ORPHAN_SECONDS = 20  # as long as supervisord lets a worker take
_parent = os.getppid()


@signals.worker_shutting_down.connect(weak=False)
def end_without_a_supervisor(**_: Any) -> None:
    """A warm shutdown of Celery 5.7 may wait for ever for results that were on their way; then supervisord or systemd
    kills the worker. One that stops because its supervisor was killed (see pg/leash.py) does it itself.

    Its pool ends by the closed pipes; a task in hand ends first, or is taken over when its lease runs out.
    """
    is_leashed = os.environ.get("LEASH_PID") == str(os.getpid())
    if is_leashed and os.getppid() != _parent:
        timer = threading.Timer(ORPHAN_SECONDS, os.kill, [os.getpid(), signal.SIGKILL])
        timer.daemon = True
        timer.start()


@signals.task_prerun.connect(weak=False)
@signals.task_postrun.connect(weak=False)
def keep_connections_fresh(sender: Any, **_: Any) -> None:
    """Around each job do what Django does around each request: drop connections that are broken or too old.

    Celery's own way is to close them each time, which costs more than a short job does; CELERY_DB_REUSE_MAX ends that.
    """
    from django.db import close_old_connections

    if not sender.request.is_eager:  # called inside somebody's transaction
        close_old_connections()
