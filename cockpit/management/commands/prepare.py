"""Brings an installation to where its processes can start: what `up` runs, and a deployment before a release."""

import sys
import time
from typing import Any

from cockpit.command import SingleCommand
from cockpit.preparation import steps
from operators.command import Answer


class Command(SingleCommand):
    help = "Check the servers, migrate, collect static files, make the administrator, partitions and streams."

    def answer(self, **options: Any) -> Answer:
        items = []
        for name, run in steps():
            started_at = time.monotonic()
            done = run()
            sys.stderr.write(f"{name}: {done['detail']} ({time.monotonic() - started_at:.1f} s)\n")
            items.append({"step": name, **done})
        return Answer(items=items)
