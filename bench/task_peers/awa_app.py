"""awa: a task that does nothing. BENCH_DSN names its database.

Run by the bench with `.bench` in its path:

python -m bench.task_peers.awa_app schema | fill N | work FILE    (how many it has done is in the file)
"""

import asyncio
import os
import sys
from dataclasses import dataclass
from pathlib import Path

import awa

QUEUE = "nothing"


@dataclass
class Nothing:
    number: int


async def main(verb: str, argument: str = "") -> None:
    client = awa.AsyncClient(os.environ["BENCH_DSN"])
    if verb == "schema":
        await client.migrate()
    elif verb == "fill":
        await client.insert_many_copy([Nothing(n) for n in range(int(argument))], queue=QUEUE)
    elif verb == "work":
        await work(client, Path(argument))
    await client.close()


async def work(client: awa.AsyncClient, told: Path) -> None:
    done = 0

    @client.task(Nothing, queue=QUEUE)
    async def nothing(job: object) -> None:
        nonlocal done
        done += 1

    await client.start([(QUEUE, 10)])
    while True:
        told.write_text(str(done))
        await asyncio.sleep(0.01)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
