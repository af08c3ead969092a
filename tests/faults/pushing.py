"""A process whose commit callbacks wait to be told: `python -m tests.faults.pushing <agent id>`.

Each line of input is a number: it is saved as the agent's key `a`, `committed` is said, and the fast path pushes only
after the next line, whatever that is; then `pushed` is said.
"""

import os
import sys
from typing import Any

import django


def main(agent_id: str) -> None:
    from agents.models import AgentState
    from bridge import fastpath

    push = fastpath.push

    def push_when_told(*arguments: Any) -> int:
        say("committed")
        sys.stdin.readline()
        return push(*arguments)

    fastpath.push = push_when_told
    for line in iter(sys.stdin.readline, ""):
        state = AgentState.objects.get(agent_id=agent_id, state_key="a")
        state.state_value = int(line)
        state.save()
        say("pushed")


def say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")
    django.setup()
    main(sys.argv[1])
