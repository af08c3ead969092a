"""A standby is promoted while workers, the bridge and beat are at work; a name leads to another server."""

import json
import time
from contextlib import ExitStack

import pytest

from cockpit.servers import Running
from tests.conftest import SERVER_KINDS
from tests.faults.cluster import Client, Cluster
from tests.faults.installation import PATIENCE_SECONDS, Installation
from tests.faults.test_network import Wire
from tests.tasks.conftest import eventually

pytestmark = pytest.mark.deep
AT_MOST_SECONDS = 30  # ten are the promise, measured and printed; a loaded machine may take longer
NAME = "primary.test"
# what a resolver does, for one name: looks it up in a file each time
RESOLVER = """
import json, socket
usual = socket.getaddrinfo
def getaddrinfo(host, *args, **kwargs):
    with open({path!r}) as names:
        return usual(json.load(names).get(host, host), *args, **kwargs)
socket.getaddrinfo = getaddrinfo
"""


@pytest.fixture
def stack():
    with ExitStack() as stack:
        yield stack


def test_workers_and_the_bridge_go_on_at_the_promoted_standby(make_home, stack, faults):
    """400 tasks, each done once, their outbox relayed; 200 of them are enqueued after the promotion."""
    cluster = Cluster(make_home, stack, "b", tables="")
    folder = make_home()
    others = {name: stack.enter_context(Running(SERVER_KINDS[name](folder))) for name in ("nats", "valkey")}
    at_work = Installation(folder, {"postgres": cluster.servers["a"], **others})
    url = f"{cluster.url('a', 'b')}?target_session_attrs=read-write"
    at_work.environ |= {"DATABASE_URL": url, "MISTERSMITH_HOME": str(folder)}
    stack.callback(at_work.end)
    stack.callback(lambda: print(at_work.tell()))  # noqa: T201  (pytest shows it with a failure)
    at_work.begin()
    before = at_work.completed()
    at_work.enqueue(200)
    eventually(lambda: at_work.completed() > before, PATIENCE_SECONDS)

    faults.kill("primary", cluster.servers["a"])
    promoted_at = cluster.promote("b")
    faults.happened("standby promoted")
    at_work.enqueue(1)
    at_promotion = at_work.completed()
    eventually(lambda: at_work.completed() > at_promotion, PATIENCE_SECONDS)
    resumed_seconds = time.monotonic() - promoted_at
    print(f"tasks went on {resumed_seconds:.2f} s after the promotion")  # noqa: T201  (with -s)
    at_work.enqueue(199)
    at_work.count(faults)
    faults.wrong(resumed_too_late=int(resumed_seconds > AT_MOST_SECONDS))


def test_a_name_that_leads_to_the_promoted_standby_is_followed(make_home, stack, faults):
    """One host name in the URL. Its address changes with the promotion; the port stays."""
    cluster = Cluster(make_home, stack, "b")
    a, b = (cluster.servers[name].server.port() for name in "ab")
    moved = Wire(b, ("127.0.0.2", a))
    stack.callback(moved.close)
    names = cluster.home / "names.json"
    names.write_text(json.dumps({NAME: "127.0.0.1"}))
    (cluster.home / "sitecustomize.py").write_text(RESOLVER.format(path=str(names)))
    url = cluster.url("a").replace("@127.0.0.1:", f"@{NAME}:")
    client = Client(cluster, url, writers=4, PYTHONPATH=str(cluster.home))
    stack.callback(client.end)
    client.sees("wrote", 0, number=40)
    faults.kill("primary", cluster.servers["a"])
    cluster.promote("b")
    names.write_text(json.dumps({NAME: "127.0.0.2"}))
    moved_at = time.monotonic()
    faults.happened("name leads elsewhere")
    first = client.sees("wrote", moved_at)[0]
    print(f"writes went on {first.at - moved_at:.2f} s after the name had moved")  # noqa: T201  (with -s)
    client.sees("wrote", moved_at, number=40)
    acknowledged = {event.detail for event in client.those("wrote")}
    found = [str(row[0]) for row in cluster.ask("b", "SELECT id FROM written")]
    faults.did(acknowledged=len(acknowledged))
    faults.wrong(
        lost=len(acknowledged - set(found)),
        doubled=len(found) - len(set(found)),
        resumed_too_late=int(first.at - moved_at > AT_MOST_SECONDS),
    )
