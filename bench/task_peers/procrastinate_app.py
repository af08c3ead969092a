"""procrastinate: a task that does nothing. BENCH_DSN names its database.

Run by the bench with `.bench/python` in its path:

python -m bench.task_peers.procrastinate_app schema | defer N | fill N | work SECONDS
"""

import asyncio
import os
import sys
import time

import procrastinate

app = procrastinate.App(
    connector=procrastinate.PsycopgConnector(conninfo=os.environ["BENCH_DSN"]),
    import_paths=["bench.task_peers.procrastinate_app"],
)
sync = procrastinate.App(connector=procrastinate.SyncPsycopgConnector(conninfo=os.environ["BENCH_DSN"]))


@app.task(name="nothing")
async def nothing(number: int) -> None:
    return None


@sync.task(name="nothing")
def nothing_sync(number: int) -> None:
    return None


def main(verb: str, number: int = 0) -> None:
    if verb == "work":
        asyncio.run(work())
        return
    with sync.open():
        if verb == "schema":
            sync.schema_manager.apply_schema()
        elif verb == "fill":
            nothing_sync.batch_defer(*({"number": n} for n in range(number)))
        elif verb == "defer":
            began = time.perf_counter()
            for n in range(number):
                nothing_sync.defer(number=n)
            print(number / (time.perf_counter() - began))


async def work() -> None:
    async with app.open_async():
        await app.run_worker_async(concurrency=10, wait=False)


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:3]))
