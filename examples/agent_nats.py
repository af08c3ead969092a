"""An agent outside Django and Celery that works on tasks over NATS: it claims, renews its leases, reports, ends.

    pip install nats-py
    NATS_URL=nats://... AGENT_ID=... SESSION_TOKEN=... python examples/agent_nats.py fetch

The token is that of `manage.py sessions open --agent $AGENT_ID --type api --permissions '{"tasks": ["fetch"]}'`.
"""

import asyncio
import json
import os
import sys
from typing import Any

import nats
from nats.aio.client import Client

WAIT_SECONDS = 20
HEARTBEAT_SECONDS = 10


class Refused(Exception):
    """The control plane said no; `args[0]` is {code, message, hint, retry}."""


class Agent:
    def __init__(self, client: Client, agent_id: str, token: str) -> None:
        self.client, self.agent_id, self.headers = client, agent_id, {"Session-Token": token}
        self.in_hand: dict[str, dict[str, Any]] = {}
        self.lost: set[str] = set()

    async def ask(self, call: str, timeout_seconds: float = 5.0, **asked: Any) -> dict[str, Any]:
        subject = f"smith.v1.agent.{self.agent_id}.tasks.{call}"
        data = json.dumps(asked).encode()
        message = await self.client.request(subject, data, timeout=timeout_seconds, headers=self.headers)
        answer: dict[str, Any] = json.loads(message.data)
        if not answer.pop("ok"):
            raise Refused(answer["error"])
        return answer

    async def run(self, task_type: str, number: int | None = None) -> None:
        """Do tasks until cancelled, or until `number` are done. What an earlier process had in hand comes first."""
        beating = asyncio.create_task(self.beat())
        try:
            todo = (await self.ask("held"))["tasks"]
            while number is None or number > 0:
                if not todo:
                    asked = {"task_type": task_type, "limit": 1, "wait_seconds": WAIT_SECONDS}
                    todo = (await self.ask("claim", WAIT_SECONDS + 5, **asked))["tasks"]
                for task in todo:
                    await self.do(task)
                    number = number and number - 1
                todo = []
        finally:
            beating.cancel()

    async def do(self, task: dict[str, Any]) -> None:
        """Work on a task and say what came of it. `work` looks at `self.lost` where it takes long."""
        mine = {name: task[name] for name in ("task_id", "attempt")}
        self.in_hand[task["task_id"]] = mine
        try:
            result = await self.work(task)
        except Exception as error:
            await self.ask("fail", **mine, message=f"{type(error).__name__}: {error}")
        else:
            ended = await self.ask("complete", **mine, result=result)
            told = "stored" if ended["is_stored"] else f"too late: {ended['status']}"
            print(task["task_id"], told, flush=True)  # noqa: T201
        finally:
            del self.in_hand[task["task_id"]]

    async def work(self, task: dict[str, Any]) -> Any:
        await self.ask("progress", task_id=task["task_id"], attempt=task["attempt"], percent=50, note="half")
        return {"echo": task["payload"]}

    async def beat(self) -> None:
        """Renew the leases; a lease that nobody renews ends after `lease_seconds`, and the task is tried again."""
        while True:
            await asyncio.sleep(HEARTBEAT_SECONDS)
            answer = await self.ask("heartbeat", tasks=list(self.in_hand.values()))
            self.lost |= {item["task_id"] for item in answer["lost"]}


async def main(task_type: str, number: int | None) -> None:
    agent_id = os.environ["AGENT_ID"]
    # each agent has inboxes of its own: the server lets it listen nowhere else
    client = await nats.connect(os.environ["NATS_URL"], inbox_prefix=f"_INBOX_{agent_id}".encode())
    await Agent(client, agent_id, os.environ["SESSION_TOKEN"]).run(task_type, number)
    await client.close()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else None))
