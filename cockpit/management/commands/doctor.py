"""Looks at every dependency and invariant, and says what to do."""

from typing import Any

from cockpit.command import SingleCommand
from monitoring.registry import checks, run_check
from operators.command import Answer


class Command(SingleCommand):
    help = "Run every check; exit 1 when something is wrong."

    def answer(self, **options: Any) -> Answer:
        rows = [
            {
                "check": check.name,
                "ok": found.ok,
                "detail": found.detail,
                "hint": "" if found.ok else found.hint,
            }
            for check in checks()
            for found in run_check(check)
        ]
        wrong = [row for row in rows if not row["ok"]]
        counts = {"checks": len(checks()), "findings": len(rows), "wrong": len(wrong)}
        return Answer(rows, counts, ok=not wrong)

    def show(self, answer: Answer) -> None:
        for row in answer.items:
            self.stdout.write(f"{'ok   ' if row['ok'] else 'WRONG'} {row['check']}: {row['detail']}")
            if row["hint"]:
                self.stdout.write(f"      HINT: {row['hint']}")
        self.stdout.write(f"{answer.counts['wrong']} wrong of {answer.counts['findings']} looked at")
