"""A bridge at work between stores of a test's own, writers on both sides, and the counts of what came of it."""

import json
import os
import random
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from uuid import UUID, uuid5

import nats.errors
import psycopg

from bridge import setup, topology
from bridge.batches import BATCH_ID
from bridge.connection import Client, Link
from bridge.setup import read_info
from pg.errors import Unreachable
from tests.bridge.conftest import wait_until
from tests.faults.ledger import Faults

ROOT = Path(__file__).parents[2]
PATIENCE_SECONDS = 90
SPACE = UUID("00000000-0000-7000-8000-000000000b1d")
WAITING_FLUSHERS = (
    "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
    " AND application_name LIKE 'mistersmith flusher%' AND wait_event_type = 'Lock'"
)
BACKENDS = "application_name LIKE 'mistersmith relay' OR application_name LIKE 'mistersmith flusher%'"


class Bridging:
    """`agents` agents; each has keys that only PostgreSQL writes, that only agents write, and that both do. A value is
    a number that its writer counts up."""

    def __init__(self, dsn: str, nats_url: str, folder: Path, agents: int = 20) -> None:
        self.dsn, self.folder = dsn, folder
        self.environ = {**os.environ, "DATABASE_URL": dsn, "NATS_URL": nats_url}
        self.agents = [uuid5(SPACE, str(number)) for number in range(agents)]
        self.link = Link(nats_url)
        self.bridges: list[subprocess.Popen[bytes]] = []
        self.retired: list[subprocess.Popen[bytes]] = []
        self.by_postgres: dict[tuple[UUID, str], int] = {}  # acknowledged by commit
        self.by_agents: dict[tuple[UUID, str], int] = {}  # acknowledged by JetStream
        self.base = 0
        self.web_process: subprocess.Popen[bytes] | None = None
        self.web_log = folder / "web.log"

    # -- processes --------------------------------------------------------------------------------------------
    def prepare(self) -> None:
        self.ask(
            "INSERT INTO agents.registry (agent_id, agent_type, agent_name)"
            " SELECT a, 'worker', 'w' FROM unnest(%s::uuid[]) a ON CONFLICT DO NOTHING",
            self.agents,
        )

    def start_bridge(self) -> subprocess.Popen[bytes]:
        with (self.folder / f"bridge{len(self.bridges) + len(self.retired)}.log").open("ab") as log:
            command = [sys.executable, "manage.py", "bridge", "run"]
            process = subprocess.Popen(command, cwd=ROOT, env=self.environ, stdout=log, stderr=log)
        self.bridges.append(process)
        return process

    def migrate(self) -> None:
        """Make the schema, where the database is not a clone of the tests' own."""
        for command in ("migrate", "partitions apply"):
            argv = [sys.executable, "manage.py", *command.split()]
            subprocess.run(argv, cwd=ROOT, env=self.environ, capture_output=True, check=True)

    @contextmanager
    def web(self) -> Iterator[None]:
        """A process that saves by the ORM, as the web does, until the block ends."""
        self.start_web()
        try:
            yield
        finally:
            assert self.web_process is not None
            self.web_process.kill()
            self.web_process.wait()
            self.note_web()

    def start_web(self) -> None:
        self.web_log.write_bytes(b"")
        with self.web_log.open("ab") as out:
            argv = [sys.executable, "-m", "tests.faults.web", str(self.next_base())]
            self.web_process = subprocess.Popen(
                [*argv, *map(str, self.agents)], cwd=ROOT, env=self.environ, stdout=out
            )

    def web_has_saved(self) -> bool:
        return self.web_log.read_bytes().count(b"\n") > len(self.agents)

    def note_web(self) -> None:
        """Note what the killed process had been told was saved."""
        for line in self.web_log.read_text().splitlines(keepends=True):
            if line.endswith("\n"):
                number = int(line)
                self.by_postgres[self.agents[number % len(self.agents)], "web"] = number

    @contextmanager
    def flusher_waiting(self) -> Iterator[None]:
        """Hold a row that the flusher has to write, until the block ends or the server does."""
        agent = self.agents[0]
        with suppress(psycopg.OperationalError), psycopg.connect(self.dsn) as session:
            wait_until(lambda: (agent, "kv") in self.state(), PATIENCE_SECONDS)
            session.execute(
                "SELECT 1 FROM agents.state WHERE agent_id = %s AND state_key = 'kv' FOR UPDATE", [agent]
            )
            wait_until(lambda: self.ask(WAITING_FLUSHERS)[0][0], PATIENCE_SECONDS)
            yield

    def end(self) -> None:
        for process in [*self.bridges, *self.retired]:
            process.kill()
            process.wait()
        self.link.close()

    # -- stores -----------------------------------------------------------------------------------------------
    def ask(self, query: str, *parameters: object) -> list[tuple[Any, ...]]:
        with psycopg.connect(self.dsn, autocommit=True, connect_timeout=5) as connection:
            answer = connection.execute(query, parameters or None)
            return answer.fetchall() if answer.description else []

    def state(self) -> dict[tuple[UUID, str], int]:
        found = self.ask("SELECT agent_id, state_key, state_value::text FROM agents.state")
        return {(agent, key): json.loads(value) for agent, key, value in found}

    def kv(self) -> dict[tuple[UUID, str], int]:
        """What the bucket holds of our agents."""
        known = set(self.agents)
        return {key: number for key, number in self.link.call(read_bucket, 60).items() if key[0] in known}

    def kv_or_none(self) -> dict[tuple[UUID, str], int] | None:
        """As `kv`; None while the servers elect a leader."""
        with suppress(Exception):
            return self.kv()
        return None

    def is_set_up(self) -> bool:
        """Whether the bridge has made the buckets and their FLUSH streams."""

        async def look(client: Client) -> bool:
            return all([await setup.read_consumer(client, item) for item in topology.consumers().values()])

        with suppress(Unreachable):
            return self.link.call(look, 5)
        return False

    def has_told(self, text: str) -> bool:
        """Whether a bridge has written this into its log."""
        return any(text in log.read_text(errors="replace") for log in self.folder.glob("bridge*.log"))

    def outbox_rows(self) -> int:
        with suppress(psycopg.OperationalError):
            return int(self.ask("SELECT count(*) FROM bridge.outbox")[0][0])
        return 1

    def leads(self) -> bool:
        with suppress(psycopg.OperationalError):
            return bool(
                self.ask(
                    "SELECT EXISTS (SELECT FROM pg_locks l JOIN pg_stat_activity a USING (pid)"
                    " WHERE l.locktype = 'advisory' AND l.granted AND a.datname = current_database()"
                    " AND a.application_name = 'mistersmith relay')"
                )[0][0]
            )
        return False

    def has_bucket(self) -> bool:
        """Whether JetStream answers for the bucket that agents write to: the leading bridge makes it."""
        with suppress(Unreachable):
            return self.link.call(has_bucket, 5)
        return False

    # -- writers ----------------------------------------------------------------------------------------------
    @contextmanager
    def writers(self, pause_seconds: float = 0.002) -> Iterator[None]:
        """Operators and agents write until the block ends; whatever fails is simply tried anew with the next number."""
        is_over = threading.Event()
        base = self.next_base()
        loops = (
            self.write_rows,
            self.write_keys,
            self.write_both_rows,
            self.write_both_keys,
            self.write_events,
        )
        threads = [
            threading.Thread(target=self._loop, args=(loop, is_over, pause_seconds, base)) for loop in loops
        ]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            is_over.set()
            for thread in threads:
                thread.join(60)

    def next_base(self) -> int:
        """Where the next writers count from: above all numbers before."""
        self.base += 1_000_000
        return self.base

    def _loop(
        self, write: Callable[[Any, int], None], is_over: threading.Event, pause_seconds: float, base: int
    ) -> None:
        number, session = base, None  # a later block counts on, never down
        while not is_over.is_set():
            number += 1
            try:
                if session is None or session.closed:
                    session = psycopg.connect(self.dsn, autocommit=True, connect_timeout=5)
                write(session, number)
            except (psycopg.Error, Unreachable, OSError):
                if session is not None:
                    session.close()
                session = None
                time.sleep(0.05)
            time.sleep(pause_seconds)
        if session is not None:
            session.close()

    def write_rows(self, session: Any, number: int) -> None:
        agent = self.agents[number % len(self.agents)]
        upsert(session, agent, "pg", number)
        self.by_postgres[agent, "pg"] = number

    def write_keys(self, session: Any, number: int) -> None:
        agent = self.agents[number % len(self.agents)]
        self.put(agent, "kv", number)
        self.by_agents[agent, "kv"] = number

    def write_both_rows(self, session: Any, number: int) -> None:
        upsert(session, self.agents[number % 3], "both", number)

    def write_both_keys(self, session: Any, number: int) -> None:
        self.put(self.agents[number % 3], "both", -number)

    def write_events(self, session: Any, number: int) -> None:
        session.execute(
            "UPDATE agents.registry SET status ="
            " (CASE status WHEN 'active' THEN 'idle' ELSE 'active' END)::agent_status_type WHERE agent_id = %s",
            [self.agents[number % len(self.agents)]],
        )

    def put(self, agent: UUID, key: str, value: Any) -> int:
        """Put as an agent does; return the revision. Raises Unreachable unless JetStream said that it is stored."""
        data = value if isinstance(value, bytes) else json.dumps(value).encode()

        async def publish(client: Client) -> int:
            answer = await client.jetstream.publish(f"$KV.AGENT_STATE.{agent}.{key}", data, timeout=10)
            return int(answer.seq)

        try:
            return self.link.call(publish, 11)
        except Exception as error:
            raise Unreachable(str(error)) from error

    def reconcile(self) -> None:
        command = [sys.executable, "manage.py", "bridge", "reconcile", "--json"]
        done = subprocess.run(
            command, cwd=ROOT, env=self.environ, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr

    def doctor(self, check: str) -> dict[str, Any]:
        """Return what doctor finds by one check."""
        command = [sys.executable, "manage.py", "doctor", "--json"]
        done = subprocess.run(
            command, cwd=ROOT, env=self.environ, capture_output=True, text=True, check=False
        )
        return next(row for row in json.loads(done.stdout)["items"] if row["check"] == check)

    # -- counts -----------------------------------------------------------------------------------------------
    def settle(self) -> None:
        """Wait until nothing is on its way, as long as what waits becomes less; else fail with what is."""
        rows = self.outbox_rows()
        while True:
            try:
                wait_until(self.is_settled, PATIENCE_SECONDS)
                return
            except AssertionError as error:
                least, rows = rows, self.outbox_rows()
                if rows >= least:
                    raise AssertionError(f"{error}\n{self.tell()}") from error

    def tell(self) -> str:
        """Return what keeps the stores apart, and what the bridges said last."""
        try:
            state, kv = self.state(), self.kv()
            apart = {key: (state.get(key), kv.get(key)) for key in state.keys() | kv.keys()}
            apart = {key: both for key, both in apart.items() if both[0] != both[1]}
            lost = {key: (n, kv.get(key)) for key, n in self.by_agents.items() if kv.get(key) != n}
            lines = [
                f"{self.outbox_rows()} rows wait; {len(apart)} keys differ (PostgreSQL, KV): {list(apart.items())[:5]}",
                f"{len(lost)} of the agents' are not in KV (acknowledged, found): {list(lost.items())[:5]}",
                *(
                    f"{row}"
                    for row in self.ask("SELECT bucket, kv_epoch, flushed_sequence FROM bridge.sources")
                ),
                *(
                    f"{row}"
                    for row in self.ask("SELECT error, count(*) FROM bridge.dead_letters GROUP BY 1 LIMIT 5")
                ),
            ]
        except Exception as error:
            lines = [f"the stores cannot be compared: {error!r}"]
        for log in sorted(self.folder.glob("bridge*.log")):
            lines += [f"-- {log.name}", *log.read_text(errors="replace").splitlines()[-12:]]
        return "\n".join(lines)

    def is_settled(self) -> bool:
        with suppress(psycopg.OperationalError, Unreachable, nats.errors.Error):  # a cluster elects leaders
            if self.outbox_rows():
                return False
            state, kv = self.state(), self.kv()
            return state == kv and all(kv.get(key) == n for key, n in self.by_agents.items())
        return False

    def count(self, faults: Faults) -> None:
        """Add what was done and what must not be.

        lost: an acknowledged write that a store lacks, without a later one; stale: a key where the stores differ, or
        where an older value came after a newer one; duplicated: an event that is stored twice.
        """
        state, kv = self.state(), self.kv()
        acknowledged = self.by_postgres | self.by_agents
        stored, doubled, missing = self.link.call(self.count_events, 60)
        faults.did(rows_written=len(self.by_postgres), keys_written=len(self.by_agents), events=stored)
        faults.did(batched=self.link.call(count_batched, 60))
        faults.wrong(
            lost=sum(
                state.get(key, 0) < number or kv.get(key, 0) < number for key, number in acknowledged.items()
            )
            + missing,
            stale=len({key for key in state.keys() | kv.keys() if state.get(key) != kv.get(key)})
            + self.link.call(count_inversions, 60),
            duplicated=doubled,
        )

    async def count_events(self, client: Client) -> tuple[int, int, int]:
        """Return how many lifecycle events are stored, how many twice, and how many of PostgreSQL's are not."""
        ids: Counter[str] = Counter()
        async for message in read_stream(client, "AGENT_STATE"):
            if message.subject.startswith("agents.lifecycle."):
                ids[json.loads(message.data)["event_id"]] += 1
        committed = {str(row[0]) for row in self.ask("SELECT event_id FROM agents.lifecycle_events")}
        return len(ids), sum(ids.values()) - len(ids), len(committed - set(ids))


def upsert(session: Any, agent: UUID, key: str, number: int) -> None:
    session.execute(
        "INSERT INTO agents.state (agent_id, state_key, state_value) VALUES (%s, %s, to_jsonb(%s::int))"
        " ON CONFLICT (agent_id, state_key) DO UPDATE SET state_value = EXCLUDED.state_value",
        [agent, key, number],
    )


async def has_bucket(client: Client) -> bool:
    return await read_info(client, "KV_AGENT_STATE") is not None


async def read_stream(client: Client, stream: str) -> Any:
    """Give every message of a stream, oldest first."""
    from nats.js.api import AckPolicy, ConsumerConfig

    info = await client.jetstream.stream_info(stream)
    left = info.state.messages
    made = await client.jetstream.add_consumer(
        stream, ConsumerConfig(ack_policy=AckPolicy.NONE, inactive_threshold=30)
    )
    subscription = await client.jetstream.pull_subscribe_bind(made.name, stream=stream)
    while left > 0:
        for message in await subscription.fetch(min(500, left), timeout=5):
            left -= 1
            yield message


async def read_bucket(client: Client) -> dict[tuple[UUID, str], int]:
    """Return the numbers that the bucket holds; poison is none."""
    found: dict[tuple[UUID, str], int] = {}
    async for message in read_stream(client, "KV_AGENT_STATE"):
        agent, _, key = message.subject.removeprefix("$KV.AGENT_STATE.").partition(".")
        if key.startswith("bad") or len(agent) != 36 or not key or key == "=epoch":
            continue
        if (message.headers or {}).get("KV-Operation"):
            found.pop((UUID(agent), key), None)
        else:
            found[UUID(agent), key] = json.loads(message.data)
    return found


async def count_batched(client: Client) -> int:
    """Return how many of the messages that are kept came in an atomic batch: values, and events."""
    found = 0
    for stream in ("FLUSH_AGENT_STATE", "AGENT_STATE"):
        async for message in read_stream(client, stream):
            found += BATCH_ID in (message.headers or {})
    return found


async def count_inversions(client: Client) -> int:
    """Return how often an older value of one writer follows a newer one, in all that the FLUSH stream keeps."""
    newest: dict[str, int] = {}
    found = 0
    async for message in read_stream(client, "FLUSH_AGENT_STATE"):
        if message.subject.endswith((".pg", ".kv", ".web")) and message.data:
            number = json.loads(message.data)
            found += number < newest.get(message.subject, 0)
            newest[message.subject] = number
    return found


def choose(seed: int, weights: dict[str, int]) -> Iterator[str]:
    """Give faults in a random order that a seed repeats; each at least once in every 2 len(weights) turns."""
    chance = random.Random(seed)
    while True:
        batch = list(weights) + chance.choices(list(weights), list(weights.values()), k=len(weights))
        chance.shuffle(batch)
        yield from batch


def live_for(seconds: float, least: int = 1) -> Iterator[int]:
    """Give turns, from 1 on, until the time is over, and at least so many."""
    deadline, turns = time.monotonic() + seconds, 0
    while turns < least or time.monotonic() < deadline:
        turns += 1
        yield turns
