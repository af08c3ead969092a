"""Shows what the processes say."""

import sys
from typing import Any

from django.conf import settings
from django.core.management.base import CommandParser

from cockpit.command import SingleCommand
from cockpit.supervision.logs import LAST_BYTES, Logs, wants_colour
from operators.command import Answer
from pg.errors import Refused


class Command(SingleCommand):
    help = "Show the end of the processes' logs, prefixed; -f goes on."

    def add_arguments(self, parser: CommandParser) -> None:
        super().add_arguments(parser)
        parser.add_argument("process", nargs="*", help="names as in `status`; default: all")
        parser.add_argument("-f", "--follow", action="store_true", help="go on until Ctrl-C")

    def answer(self, process: list[str], follow: bool, **options: Any) -> Answer:
        refuse_unknown(process)
        logs, colour = Logs(settings.MISTERSMITH_HOME, process), wants_colour()
        logs.skip_to_end(keep_bytes=LAST_BYTES)
        if not follow:
            sys.stdout.writelines(f"{line}\n" for line in logs.new_lines(colour))
            return Answer()
        try:
            for line in logs.follow(colour):
                sys.stdout.write(f"{line}\n" if line else "")
                sys.stdout.flush()
        except (KeyboardInterrupt, BrokenPipeError):
            pass
        return Answer()


def refuse_unknown(names: list[str]) -> None:
    folder = settings.MISTERSMITH_HOME / "log"
    known = sorted(path.stem for path in folder.glob("*.log"))
    if unknown := sorted(set(names) - set(known)):
        raise Refused(
            f"no log of {', '.join(unknown)} in {folder}", f"there are: {', '.join(known) or 'none yet'}"
        )
