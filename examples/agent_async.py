"""An agent as an asyncio program: it starts as the successor of its former self, and counts.

    python examples/agent_async.py <agent_id>

Start it twice for one agent: the second takes over, the first is told and ends.
"""

import asyncio
import os
import sys
from uuid import UUID

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")
sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

import django

django.setup()

from asgiref.sync import sync_to_async  # noqa: E402

from agents.errors import StaleEpoch  # noqa: E402
from agents.rollback import raise_epoch  # noqa: E402
from bridge.state_async import AsyncAgentState  # noqa: E402
from bridge.state_values import ABSENT_VERSION, VersionConflict  # noqa: E402


async def work(agent_id: UUID) -> None:
    epoch = await sync_to_async(raise_epoch)(agent_id)
    async with AsyncAgentState(agent_id, epoch=epoch) as state:
        await state.put("status", "reading", ttl_seconds=30)
        try:
            while True:
                print("turn", await count(state), flush=True)  # noqa: T201
                await asyncio.sleep(1)
        except StaleEpoch as error:
            print(f"{error}: the end", flush=True)  # noqa: T201


async def count(state: AsyncAgentState) -> int:
    """Add one, whoever else does."""
    while True:
        found = await state.read("turns")
        turns = (found.value if found else 0) + 1
        try:
            await state.compare_and_set("turns", turns, found.version if found else ABSENT_VERSION)
        except VersionConflict:
            continue
        return turns


if __name__ == "__main__":
    asyncio.run(work(UUID(sys.argv[1])))
