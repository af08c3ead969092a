"""Web and workers behind PgBouncer in transaction mode: they work, and a restart of it costs a moment."""

import shutil
import subprocess
import time
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

from cockpit.servers import ports
from pg import account
from tests.faults.cluster import TABLES, Client
from tests.tasks.conftest import eventually

pytestmark = pytest.mark.deep
PROGRAM = "/usr/sbin/pgbouncer"
CONFIGURATION = """
[databases]
mistersmith = host={host} port={server_port} dbname=mistersmith
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
auth_type = scram-sha-256
auth_file = {folder}/users
pool_mode = transaction
default_pool_size = 5
ignore_startup_parameters = options, extra_float_digits
unix_socket_dir =
logfile = {folder}/log
pidfile = {folder}/pid
"""


class Bouncer:
    """Debian's PgBouncer before a server."""

    def __init__(self, folder: Path, url: str) -> None:
        given = conninfo_to_dict(url)
        self.port, self.url = ports.free_port(), url
        folder.mkdir(mode=0o755)
        text = CONFIGURATION.format(
            host=given["host"], server_port=given["port"], port=self.port, folder=folder
        )
        (folder / "pgbouncer.ini").write_text(text)
        (folder / "users").write_text(f'"{given["user"]}" "{given["password"]}"\n')
        user = account.server_user()
        if user is not None:
            entry = account.ensure_user(user)
            for path in (folder, *folder.iterdir()):
                shutil.chown(path, entry.pw_uid, entry.pw_gid)
        self.argv = [PROGRAM, *(["-u", user] if user else []), str(folder / "pgbouncer.ini")]
        self.own_url = url.replace(f":{given['port']}/", f":{self.port}/")
        self.log = folder / "log"

    def start(self) -> None:
        self.process = subprocess.Popen(self.argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        eventually(self.answers, 30)

    def answers(self) -> bool:
        try:
            with psycopg.connect(self.own_url, connect_timeout=2) as session:
                return session.execute("SELECT 1").fetchone() == (1,)
        except psycopg.Error:
            return False


@pytest.fixture
def bouncer(restartable, own_home):
    if not Path(PROGRAM).is_file():
        pytest.skip("pgbouncer is not installed: make system-deps")
    server = restartable("postgres").server
    with psycopg.connect(server.url(), autocommit=True) as session:
        session.execute(TABLES)
    made = Bouncer(own_home / "pgbouncer", server.url())
    made.home = own_home
    made.start()
    yield made
    made.process.kill()
    made.process.wait()


def test_writers_and_readers_go_on_after_a_restart_of_pgbouncer(bouncer, faults):
    client = Client(bouncer, bouncer.own_url, writers=3, readers=2)
    try:
        client.sees("wrote", 0, number=50)
        faults.kill("pgbouncer", bouncer.process)
        client.sees("failed", time.monotonic() - 5)
        bouncer.start()
        began = time.monotonic()
        first = client.sees("wrote", began)[0]
        client.sees("wrote", began, number=50)
        client.sees("read", began, number=20)
    finally:
        client.end()
    with psycopg.connect(bouncer.url) as session:
        found = [str(row[0]) for row in session.execute("SELECT id FROM written")]
    acknowledged = {event.detail for event in client.those("wrote")}
    faults.did(acknowledged=len(acknowledged), reads=len(client.those("read")))
    faults.wrong(
        lost=len(acknowledged - set(found)),
        doubled=len(found) - len(set(found)),
        readers_failed=len([one for one in client.those("failed") if one.detail.startswith("read")]),
        resumed_too_late=int(first.at - began > 10),
    )
