"""An agent as a plain program: state that survives it, a value that expires, a checkpoint.

python examples/agent_sync.py <agent_id>
"""

import os
import sys
from uuid import UUID

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")
sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

import django

django.setup()

from agents.checkpoints import create_checkpoint  # noqa: E402
from agents.registry import get_agent  # noqa: E402
from bridge.state import AgentState  # noqa: E402


def work(agent_id: UUID) -> None:
    agent = get_agent(agent_id)
    state = AgentState(agent.pk, epoch=agent.epoch)
    pages = state.get("pages", [])
    state.put("pages", [*pages, f"page {len(pages) + 1}"])
    state.put("reading", True, ttl_seconds=60)
    saved = create_checkpoint(agent.pk, f"after page {len(pages) + 1}")
    print(saved, state.read("pages"))  # noqa: T201


if __name__ == "__main__":
    work(UUID(sys.argv[1]))
