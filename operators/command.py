"""The shape that all management commands share (design, section 9).

`--json` prints one object `{"ok", "command", "items", "counts", "warnings"}`, or for plans `"steps"`.
Exit 0: done; 1: it found something wrong; 2: bad usage or unreachable server. Errors go to stderr with a HINT.
"""

import json
import sys
from argparse import ArgumentParser
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.core.serializers.json import DjangoJSONEncoder
from django.db import InterfaceError, OperationalError

from pg.errors import MisterSmithError

DATABASE_HINT = "is PostgreSQL up? run `manage.py status`, start it with `make up`, or correct DATABASE_URL"


@dataclass
class Answer:
    """What a verb returns: rows for people and programs. `ok=False` makes the command exit 1."""

    items: list[dict[str, Any]] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    steps: list[dict[str, str]] | None = None  # only plans have them: action, object, why
    ok: bool = True


class OperatorCommand(BaseCommand):
    """A command made of verbs. A subclass adds them in `add_verbs`; each names a function that takes the
    parsed options as keywords and returns an `Answer`."""

    requires_system_checks: list[str] = []

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--json", action="store_true", help="print one JSON object")
        self._verbs = parser.add_subparsers(
            dest="verb", required=True, metavar="verb", parser_class=ArgumentParser
        )
        self.add_verbs()

    def add_verbs(self) -> None:
        raise NotImplementedError

    def add_verb(self, name: str, run: Any, help: str) -> ArgumentParser:
        """Add verb `name`; return its parser for more arguments."""
        parser: ArgumentParser = self._verbs.add_parser(name, help=help, description=help)
        parser.add_argument(
            "--json", action="store_true", default=None, dest="json_after", help="print one JSON object"
        )
        parser.set_defaults(run=run)
        return parser

    def handle(self, **options: Any) -> None:
        run, verb = options.pop("run"), options.pop("verb")
        as_json = bool(options.pop("json_after", None)) | bool(options.pop("json"))
        name = type(self).__module__.rsplit(".", 1)[-1]
        answer = answered(run, options)
        print_answer(self.stdout, f"{name} {verb}", answer, as_json)
        if not answer.ok:
            raise SystemExit(1)


def answered(run: Any, options: dict[str, Any]) -> Answer:
    """Call the verb; turn what people can mend into a message with a HINT and exit code 2."""
    try:
        result: Answer = run(**options)
        return result
    except MisterSmithError as error:
        raise hinted(str(error), error.hint) from error
    except (OperationalError, InterfaceError) as error:
        raise hinted(f"PostgreSQL: {error}".strip(), DATABASE_HINT) from error


def hinted(message: str, hint: str = "") -> CommandError:
    """Return the error that prints `message` and its HINT on stderr and ends with exit code 2."""
    return CommandError(f"{message}\nHINT: {hint}" if hint else message, returncode=2)


def print_answer(out: Any, command: str, answer: Answer, as_json: bool) -> None:
    if as_json:
        body: dict[str, Any] = {"ok": answer.ok, "command": command}
        if answer.steps is not None:
            body["steps"] = answer.steps
        body |= {"items": answer.items, "counts": answer.counts, "warnings": answer.warnings}
        out.write(json.dumps(body, cls=DjangoJSONEncoder, default=str))
        return
    for step in answer.steps or []:
        out.write(f"{step['action']:8} {step['object']}: {step['why']}")
    if answer.steps == []:
        out.write("nothing to do")
    for line in table(answer.items):
        out.write(line)
    if answer.counts:
        out.write("  ".join(f"{name}: {number}" for name, number in answer.counts.items()))
    for warning in answer.warnings:
        sys.stderr.write(f"warning: {warning}\n")


def table(rows: Iterable[Mapping[str, Any]]) -> list[str]:
    """Lay rows out in columns; the last column is not padded."""
    rows = list(rows)
    if not rows:
        return []
    heads = list(rows[0])
    cells = [
        heads,
        *([str(row.get(head, "") if row.get(head) is not None else "") for head in heads] for row in rows),
    ]
    widths = [max(len(line[n]) for line in cells) for n in range(len(heads))]
    widths[-1] = 0
    return ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in cells]
