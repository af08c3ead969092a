"""Commands without verbs (`up`, `status`, ...): the sibling of `operators.command.OperatorCommand`."""

from typing import Any

from django.core.management.base import BaseCommand, CommandParser

from operators.command import Answer, answered, print_answer

DJANGO_OPTIONS = {
    "verbosity",
    "settings",
    "pythonpath",
    "traceback",
    "no_color",
    "force_color",
    "skip_checks",
}


class SingleCommand(BaseCommand):
    """A command that does one thing: `answer` takes the parsed options as keywords and returns an `Answer`."""

    requires_system_checks: list[str] = []

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--json", action="store_true", dest="as_json", help="print one JSON object")

    def answer(self, *args: Any, **options: Any) -> Answer:
        raise NotImplementedError

    def show(self, answer: Answer) -> None:
        """Print the answer for people."""
        print_answer(self.stdout, "", answer, as_json=False)

    def handle(self, **options: Any) -> None:
        as_json = options.pop("as_json")
        own = {name: value for name, value in options.items() if name not in DJANGO_OPTIONS}
        answer = answered(self.answer, own)
        if as_json:
            print_answer(self.stdout, type(self).__module__.rsplit(".", 1)[-1], answer, as_json)
        else:
            self.show(answer)
        if not answer.ok:
            raise SystemExit(1)
