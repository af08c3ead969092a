"""Saves by the ORM without a pause, as the web does: `python -m tests.faults.web <first number> <agent id> ...`. Each
number is printed when its save has returned."""

import itertools
import os
import sys

import django


def main(first: int, agent_ids: list[str]) -> None:
    from agents.models import AgentState

    states = [
        AgentState.objects.get_or_create(agent_id=agent_id, state_key="web", defaults={"state_value": 0})[0]
        for agent_id in agent_ids
    ]
    for number in itertools.count(first):
        state = states[number % len(states)]
        state.state_value = number
        state.save()
        os.write(1, b"%d\n" % number)


if __name__ == "__main__":
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")
    django.setup()
    main(int(sys.argv[1]), sys.argv[2:])
