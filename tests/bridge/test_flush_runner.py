"""The flusher's loop, and the parts of `bridge run` together."""

import threading
import time
from contextlib import contextmanager

import pytest

from agents.models import AgentState
from bridge import connection, setup, topology
from bridge.fence import FENCE
from bridge.flush_runner import Flusher
from bridge.heartbeats import Heartbeats
from bridge.models import Source
from bridge.part import Part, run_parts
from bridge.received import MessageReader
from bridge.runner import Relay
from bridge.session import execute, open_session
from bridge.task_service import TaskService
from tests.bridge.conftest import empty_outbox, put, rows, value, wait_until
from tests.bridge.flushing import pulling, state, write

pytestmark = pytest.mark.usefixtures("committed")


@contextmanager
def running(*parts):
    threads = [threading.Thread(target=part.run) for part in parts]
    for thread in threads:
        thread.start()
    try:
        yield parts[0]
    finally:
        for part in parts:
            part.stop()
        for thread in threads:
            thread.join(30)
            assert not thread.is_alive()


def test_what_agents_write_is_in_postgresql_within_moments(jetstream, agent):
    with running(Flusher("AGENT_STATE")) as flusher:
        for number in range(200):
            put("AGENT_STATE", f"{agent.pk}.k{number % 20}", number)
        wait_until(lambda: state(agent) == {f"k{n}": 180 + n for n in range(20)})
        # of a key's writes the bucket keeps three: what the FLUSH stream was too slow for is past
        wait_until(lambda: flusher.pending == flusher.unsettled == 0 and flusher.totals.read >= 60)
        wait_until(lambda: Source.objects.get(bucket="AGENT_STATE").flushed_sequence >= 60)
    assert flusher.figures()["lag_ms"]["p50"] > 0


def test_what_agents_wrote_while_nobody_flushed_is_not_lost(jetstream, agent):
    with running(Flusher("AGENT_STATE")):
        put("AGENT_STATE", f"{agent.pk}.a", 1)
        wait_until(lambda: state(agent) == {"a": 1})
    put("AGENT_STATE", f"{agent.pk}.a", 2)
    put("AGENT_STATE", f"{agent.pk}.b", 1)
    with running(Flusher("AGENT_STATE")):
        wait_until(lambda: state(agent) == {"a": 2, "b": 1})


PARTS = {
    "flusher": lambda: Flusher("AGENT_STATE"),
    "messages": MessageReader,
    "heartbeats": Heartbeats,
    "relay": Relay,
    "task service": TaskService,
}


@pytest.mark.parametrize("make", PARTS.values(), ids=PARTS)
def test_a_part_that_stops_leaves_nothing_on_a_connection_that_lives_on(jetstream, make):
    before = subscriptions()
    with running(make()):
        wait_until(lambda: subscriptions() > before)
    assert subscriptions() == before
    for item in topology.consumers().values():
        info = connection.call(lambda c, item=item: c.jetstream.consumer_info(item.stream, item.name))
        assert info.num_waiting == 0, f"{item.label} keeps a request of somebody who is gone"


def subscriptions():
    return connection.call(count_subscriptions)


async def count_subscriptions(client):
    return len(client.nc._subs)


def test_what_came_to_a_puller_that_stops_comes_to_the_next_one_at_once(jetstream, agent):
    """Not after the consumer's ack_wait of 10 seconds."""
    for number in range(30):
        write("AGENT_STATE", f"{agent.pk}.k{number}", number)
    with pulling("AGENT_STATE") as first:
        wait_until(lambda: connection.call(lambda _: first.pull(10, 10, 1.0, 1.0)).pending)
        wait_until(lambda: len(first._come) == 10)  # asked for before it was needed
    with pulling("AGENT_STATE") as second:
        pulled = connection.call(lambda _: second.pull(20, 20, 5.0, 5.0), 20)
    assert sorted(letter.deliveries for letter in pulled.letters) == [1] * 10 + [2] * 10


def test_relay_and_flusher_settle_what_both_sides_write(jetstream, agent):
    with running(Relay(), Flusher("AGENT_STATE")):
        for number in range(30):
            put("AGENT_STATE", f"{agent.pk}.a", f"agent {number}")
            AgentState.objects.update_or_create(agent=agent, state_key="a", defaults={"state_value": number})
        wait_until(lambda: not rows("SELECT 1 FROM bridge.outbox"))
        wait_until(lambda: state(agent)["a"] == value("AGENT_STATE", f"{agent.pk}.a"))
        put("AGENT_STATE", f"{agent.pk}.a", "last")
        wait_until(lambda: state(agent) == {"a": "last"})


def test_a_backup_holds_the_flusher_and_no_agent(jetstream, agent):
    with open_session() as backup:
        execute(backup, f"SELECT pg_advisory_lock({FENCE})")
        with running(Flusher("AGENT_STATE")) as flusher:
            put("AGENT_STATE", f"{agent.pk}.a", 1)
            wait_until(lambda: flusher.unsettled or flusher.pending)
            assert state(agent) == {}
            execute(backup, f"SELECT pg_advisory_unlock({FENCE})")
            wait_until(lambda: state(agent) == {"a": 1})


@pytest.mark.deep
@pytest.mark.ci
def test_a_cut_session_and_a_killed_server_cost_nothing(own_jetstream, agent):
    with running(Flusher("AGENT_STATE")):
        put("AGENT_STATE", f"{agent.pk}.a", 1)
        wait_until(lambda: state(agent) == {"a": 1})
        rows(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE application_name = 'mistersmith flusher AGENT_STATE' AND datname = current_database()"
        )
        put("AGENT_STATE", f"{agent.pk}.a", 2)
        wait_until(lambda: state(agent) == {"a": 2})
        own_jetstream.kill()
        wait_until(lambda: not connection.link().is_connected())
        own_jetstream.start()
        wait_until(connection.link().is_connected)
        put("AGENT_STATE", f"{agent.pk}.a", 3)
        wait_until(lambda: state(agent) == {"a": 3})


def test_a_bucket_that_is_made_anew_is_flushed_again_from_its_first_revision(own_jetstream, agent):
    with running(Flusher("AGENT_STATE")):
        for number in range(20):
            put("AGENT_STATE", f"{agent.pk}.a", number)
        wait_until(lambda: state(agent) == {"a": 19})
        connection.call(lambda c: c.jetstream.delete_stream("KV_AGENT_STATE"))
        wait_until(lambda: "KV_AGENT_STATE" in setup.read_found().configs)
        revision = put("AGENT_STATE", f"{agent.pk}.a", "of the new bucket")
        assert revision == 1
        wait_until(lambda: state(agent) == {"a": "of the new bucket"})
    empty_outbox()
    assert setup.make_plan(setup.read_found()) == []


def test_session_data_has_a_flusher_of_its_own(jetstream, agent):
    with running(Flusher("SESSION_DATA")) as flusher:
        put("SESSION_DATA", str(agent.pk), {})  # no such session
        wait_until(lambda: flusher.totals.ended == 1)


# -- parts -----------------------------------------------------------------------------------------------------
class Counting(Part):
    def __init__(self, most):
        super().__init__("counting")
        self.turns, self.most = 0, most

    def turn(self, db):
        self.turns += 1
        if self.turns > self.most:
            raise ZeroDivisionError
        time.sleep(0.01)


def test_parts_end_together_when_told():
    parts, is_stopping = [Counting(10_000), Counting(10_000)], threading.Event()

    def stop_when_at_work():
        wait_until(lambda: all(part.turns for part in parts), 60)
        is_stopping.set()

    threading.Thread(target=stop_when_at_work).start()
    assert run_parts(parts, is_stopping)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_part_that_breaks_ends_all_and_is_named(caplog):
    whole = Counting(10_000)
    assert not run_parts([whole, Counting(2)], threading.Event())
    assert whole.is_stopping
    assert "ended by itself: counting" in caplog.text
