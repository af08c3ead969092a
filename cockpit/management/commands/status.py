"""Lists the processes and servers of this machine."""

from typing import Any

from django.conf import settings

from cockpit.command import SingleCommand
from cockpit.supervision import claim
from cockpit.supervision.control import Control
from cockpit.vitals import server_rows
from operators.command import Answer


class Command(SingleCommand):
    help = "List what runs: processes with pid and uptime, servers with version and address."

    def answer(self, **options: Any) -> Answer:
        home = settings.MISTERSMITH_HOME
        if not claim.is_taken(home):
            processes, warnings = [], ["`up` does not run here; start it with `make up`"]
        else:
            processes, warnings = process_rows(Control(home)), []
        servers = server_rows()
        warnings += [f"{row['name']}: {error}" for row in servers if (error := row.pop("error"))]
        bad = [row for row in processes + servers if row["state"] not in ("RUNNING", "EXITED", "answers")]
        counts = {"processes": len(processes), "servers": len(servers), "not running": len(bad)}
        return Answer(processes + servers, counts, warnings, ok=bool(processes) and not bad)


def process_rows(control: Control) -> list[dict[str, Any]]:
    try:
        states = control.states()
    except OSError:
        return []
    return [
        {
            "kind": "process",
            "name": state.name,
            "state": state.state,
            "pid": state.pid,
            "uptime_seconds": state.uptime_seconds,
            "version": None,
            "address": claim.read(control.home).url if state.name == "web" else None,
        }
        for state in states
    ]
