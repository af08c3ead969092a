"""manage.py demo: run, status."""

import signal
import threading
from typing import Any

from demo.run import run_demo
from demo.status import list_agents, list_failures, read_progress
from operators.command import Answer, OperatorCommand


class Command(OperatorCommand):
    help = "A small fleet that reads Python's standard library."

    def add_verbs(self) -> None:
        parser = self.add_verb("run", run, "start the fleet and watch over it until SIGTERM or Ctrl-C")
        parser.add_argument("--again", action="store_true", help="read everything again")
        self.add_verb("status", status, "show the fleet and how far it is")


def run(again: bool, **_: Any) -> Answer:
    stopping = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopping.set())
    run_demo(stopping, again)
    return Answer()


def status(**_: Any) -> Answer:
    return Answer(items=list_agents(), counts=read_progress().as_counts(), warnings=list_failures())
