import asyncio
import contextlib
import os
import socket
import subprocess
import sys
import threading
import time

import nats.js.errors
import pytest

from bridge import connection
from bridge.connection import Link, call
from cockpit.servers.ports import free_port
from pg.errors import Unreachable
from tests.bridge.conftest import value, wait_until


async def put(client):
    await client.jetstream.publish("$KV.AGENT_CONFIG.forked", b"1")


def test_nothing_connects_at_import_or_set_up():
    code = (
        "import threading, django; django.setup(); import bridge.connection as c;"
        " assert c._link is None; assert [t.name for t in threading.enumerate()] == ['MainThread']"
    )
    environ = {**os.environ, "DJANGO_SETTINGS_MODULE": "config.settings"}
    subprocess.run([sys.executable, "-c", code], check=True, env=environ, timeout=60)


@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
def test_a_forked_child_makes_its_own_connection(jetstream):
    call(put)
    children = [os.fork() or run_child() for _ in range(3)]
    assert [os.waitpid(pid, 0)[1] for pid in children] == [0, 0, 0]
    call(put)
    assert value("AGENT_CONFIG", "forked") == 1


def run_child():
    try:
        for _ in range(20):
            call(put)
        os._exit(0)
    except BaseException:
        os._exit(1)


def test_threads_share_one_connection(jetstream):
    call(put)
    link = connection.link()
    threads = [threading.Thread(target=lambda: [call(put) for _ in range(20)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert connection.link() is link


def test_of_many_messages_of_one_subject_few_go_out_and_one_after_the_last(jetstream):
    got = []

    async def note(message):
        got.append(time.monotonic())

    async def listen(client):
        await client.nc.subscribe("wake.test", cb=note)
        await client.nc.flush()

    call(listen)
    link = connection.link()
    link.send("wake.test")
    wait_until(lambda: got)
    for _ in range(2_000):
        link.send("wake.test")
    last_asked = time.monotonic()
    wait_until(lambda: got[-1] > last_asked)
    assert len(got) < 1_000


def test_a_server_that_is_away_is_named_without_its_password(settings):
    settings.NATS_URL = "nats://user:secret@127.0.0.1:1"
    connection.close()
    started = time.monotonic()
    with pytest.raises(Unreachable, match=r"127\.0\.0\.1:1") as caught:
        call(put, timeout_seconds=0.1)
    assert time.monotonic() - started < 30
    assert "secret" not in str(caught.value)
    assert "NATS_URL" in caught.value.hint
    connection.close()


@pytest.mark.parametrize(
    "words",
    [
        pytest.param([], id="before-it-says-a-word"),
        pytest.param([b"INFO {}\r\n"], id="before-it-lets-us-in"),
        pytest.param([b"INFO {}\r\n", b"-ERR 'Authorization Violation'\r\n"], id="when-it-refuses-us"),
    ],
)
def test_a_link_that_is_closed_while_it_connects_leaves_no_socket_open(words):
    """A server that lets us wait, played by a bare socket."""
    with socket.create_server(("127.0.0.1", free_port())) as server:
        link = Link(f"nats://user:secret@127.0.0.1:{server.getsockname()[1]}")
        accepted, _ = server.accept()
        with accepted:
            accepted.settimeout(30)
            for word in words:
                accepted.sendall(word)
            link.close()
            with contextlib.suppress(ConnectionResetError):  # closed before it had read all
                while accepted.recv(4096):
                    pass


def complaint():
    with pytest.raises(Unreachable) as caught:
        call(put, 0.2)
    return str(caught.value)


def test_a_closed_link_ends_a_task_that_forgets_its_first_cancellation(jetstream, settings):
    begun, ended = threading.Event(), threading.Event()

    async def stubborn():
        begun.set()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.Event().wait()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    link = Link(settings.NATS_URL)
    asyncio.run_coroutine_threadsafe(stubborn(), link._loop)
    assert begun.wait(30)
    link.close()
    assert ended.is_set()


def test_a_wrong_password_is_said_and_the_right_one_works_again(own_jetstream, settings):
    right = settings.NATS_URL
    settings.NATS_URL = right.replace("@", "x@")
    connection.close()
    wait_until(lambda: "authorization" in complaint().lower())
    settings.NATS_URL = right
    connection.close()
    call(put)


def test_the_connection_comes_back_with_the_server(own_jetstream):
    call(put)
    own_jetstream.kill()
    wait_until(lambda: not connection.link().is_connected())
    with pytest.raises(Unreachable):
        call(put)
    own_jetstream.start()
    wait_until(connection.link().is_connected)
    call(put)


def test_a_cluster_without_a_leader_just_now_is_unreachable(jetstream):
    """A part of the bridge waits for it then; any other error would end the part."""

    async def ask(client):
        raise nats.js.errors.ServiceUnavailableError(
            code=503, err_code=10008, description="JetStream system temporarily unavailable"
        )

    with pytest.raises(Unreachable, match="temporarily unavailable"):
        call(ask)
