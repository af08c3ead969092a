"""KV to PostgreSQL: the flusher's rate beside fetching and acknowledging alone, and from a put to its commit."""

import asyncio
import gc
import sys
import time
from typing import Any
from uuid import UUID

from bench.frame import Report, percentile
from bench.frame.servers import Installation
from bench.sync.stores import BUCKET, bridge_running, clear, connect, make_rows, subject_of
from bench.task_peers.processes import wait_for
from bridge import topology
from bridge.connection import Client, call
from bridge.flush_runner import Flusher
from bridge.management.commands.bridge import SWITCH_SECONDS
from bridge.publisher import Message

PUTS_PER_SECOND = 1_000
LABEL = f"FLUSH_{BUCKET}/{topology.FLUSHER}"
DATA = b'{"text": "%s", "n": %d}'


def measure(report: Report, found: Installation) -> None:
    measure_rate(report, found)
    measure_latency(report, found)


# -- rate -------------------------------------------------------------------------------------------------------
def measure_rate(report: Report, found: Installation) -> None:
    """Half of the messages are new keys, half change one that is there."""
    number = report.rows(20_000, 10_000)
    clear(found)
    keys = make_rows(found, 20, number // 2 // 20)
    new = [(agent, f"new.{key}") for agent, key in keys]
    put_all([subject_of(*key) for pair in zip(keys, new, strict=True) for key in pair])
    wait_for_flush_stream(number)
    gc.freeze()  # as `bridge run` does, and so often threads take turns there
    before = sys.getswitchinterval()
    sys.setswitchinterval(SWITCH_SECONDS)
    for name in ("fetch only", ""):
        read_anew()
        seconds = run_flusher(number, flushes=not name)
        if name:
            fetched = number / seconds
    gc.unfreeze()
    sys.setswitchinterval(before)
    report.add("flusher_rate", number / seconds, "messages/s", number)
    report.add_peer("flusher_rate", "fetch only", fetched)
    with connect(found) as session:
        (stored,) = session.execute("SELECT count(*) FROM agents.state WHERE kv_revision > 0").fetchone()  # type: ignore[misc]
    assert stored == number, f"{stored} rows of {number} have a revision"


def put_all(subjects: list[str]) -> None:
    messages = [Message(subject, DATA % (b"x" * 160, n)) for n, subject in enumerate(subjects)]
    outcomes = call(lambda client: client.publisher.publish(messages, 30), 120)
    assert all(outcome.is_stored for outcome in outcomes)


def wait_for_flush_stream(number: int) -> None:
    async def count(client: Client) -> int:
        return int((await client.jetstream.stream_info(f"FLUSH_{BUCKET}")).state.messages)

    wait_for(lambda: call(count) >= number)


def read_anew() -> None:
    """A consumer that begins at the stream's beginning."""
    item = topology.consumers()[LABEL]

    async def make(client: Client) -> None:
        await client.jetstream.delete_consumer(item.stream, item.name)
        await client.jetstream.add_consumer(item.stream, item.config())

    call(make)


def run_flusher(number: int, flushes: bool) -> float:
    """Return the seconds in which one flusher has read `number` messages: applied, or only acknowledged."""
    flusher, done = Flusher(BUCKET), 0
    with flusher.open() as db:
        flusher.prepare(db)
        flusher.look(db)  # how much waits: batches are as large as when it is behind
        began = time.perf_counter()
        while done < number:
            if flushes:
                batch = flusher.next_batch()
                flusher.write(db, batch)
                done += len(batch.letters)
            else:
                letters = flusher.take().letters
                flusher.answer(letters, [])
                done += len(letters)
        flusher.finish_answers()
        seconds = time.perf_counter() - began
        flusher.end()
    return seconds


# -- latency ----------------------------------------------------------------------------------------------------
def measure_latency(report: Report, found: Installation) -> None:
    """Puts at a fixed rate while the bridge is at work: from the call until PostgreSQL committed the row."""
    number = report.rows(5_000, 1_000)
    clear(found)
    keys = make_rows(found, 20, number // 20)
    with bridge_running(found):
        put_at, acknowledged = call(lambda client: offer(client, keys), 60)
        committed = wait_for_commits(found, number)
    times = [(committed[key] - put_at[key]) * 1_000 for key in keys]
    for percent in (50, 95, 99):
        note = f"{number / (acknowledged - min(put_at.values())):,.0f} puts/s reached"
        report.add(f"put_to_commit_p{percent}", percentile(times, percent), "ms", number, note)


async def offer(client: Client, keys: list[tuple[UUID, str]]) -> tuple[dict[Any, float], float]:
    """Put each key at its moment, whether or not those before are acknowledged; return when each was put, and when the
    last was acknowledged."""
    put_at: dict[Any, float] = {}
    running = []
    began = time.perf_counter()
    for number, key in enumerate(keys):
        await asyncio.sleep(max(0.0, began + number / PUTS_PER_SECOND - time.perf_counter()))
        put_at[key] = time.time()
        message = Message(subject_of(*key), DATA % (b"x" * 160, number))
        running.append(asyncio.create_task(client.publisher.publish([message], 10)))
    outcomes = await asyncio.gather(*running)
    assert all(outcome.is_stored for (outcome,) in outcomes)
    return put_at, time.time()


def wait_for_commits(found: Installation, number: int) -> dict[Any, float]:
    """Return when each row was committed: PostgreSQL keeps it (track_commit_timestamp)."""
    with connect(found) as session:
        count = "SELECT count(*) FROM agents.state WHERE kv_revision > 0"
        wait_for(lambda: session.execute(count).fetchone()[0] == number, 60)  # type: ignore[index]
        rows = session.execute(
            "SELECT agent_id, state_key, extract(epoch FROM pg_xact_commit_timestamp(xmin))::float8 FROM agents.state"
        ).fetchall()
    return {(agent, key): seconds for agent, key, seconds in rows}
