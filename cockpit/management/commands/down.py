"""Stops what `up` started, and returns when it is gone."""

from typing import Any

from django.conf import settings

from cockpit.command import SingleCommand
from cockpit.supervision import lifecycle
from operators.command import Answer


class Command(SingleCommand):
    help = "Stop everything that `up` started here; the data stays. Nothing running is fine too."

    def answer(self, **options: Any) -> Answer:
        home = settings.MISTERSMITH_HOME
        state = "stopped: no process is left" if lifecycle.bring_down(home) else "nothing was running"
        return Answer(items=[{"home": str(home), "state": state}])
