"""The parts of `up` that need no process."""

import shlex
import socket
from configparser import RawConfigParser
from itertools import islice

import pytest

from cockpit.servers import ServerError, ports
from cockpit.supervision import claim
from cockpit.supervision.configuration import configuration_path, socket_path, write_configuration
from cockpit.supervision.lifecycle import choose_web_port, embedded_servers
from cockpit.supervision.logs import Logs
from cockpit.supervision.programs import Program, app_programs, listen_address


# -- which servers are ours ---------------------------------------------------------------------------------
def test_servers_without_url_are_embedded(tmp_path):
    assert [server.name for server in embedded_servers(tmp_path, {})] == ["postgres", "nats", "valkey"]


def test_server_with_url_in_the_environment_is_the_users_own(tmp_path):
    environ = {"NATS_URL": "nats://nats.example.org", "CELERY_BROKER_URL": ""}
    assert [server.name for server in embedded_servers(tmp_path, environ)] == ["postgres", "valkey"]


def test_url_that_an_earlier_start_wrote_is_still_ours(tmp_path):
    (tmp_path / "embedded.env").write_text("# written\nNATS_URL=nats://127.0.0.1:20001\n")
    assert len(embedded_servers(tmp_path, {"NATS_URL": "nats://127.0.0.1:20001"})) == 3
    assert len(embedded_servers(tmp_path, {"NATS_URL": "nats://127.0.0.1:20002"})) == 2


def test_taken_default_port_gives_way_to_the_next_free_one():
    port = ports.free_port()
    with socket.create_server(("127.0.0.1", port)):
        assert choose_web_port("127.0.0.1", port, explicit=False) > port
        with pytest.raises(ServerError, match=f"port {port} on 127.0.0.1 is taken"):
            choose_web_port("127.0.0.1", port, explicit=True)
    assert choose_web_port("127.0.0.1", port, explicit=True) == port


def test_listen_address_of_ipv6_is_in_brackets():
    assert listen_address("::1", 8000) == "[::1]:8000"


# -- supervisord's configuration ----------------------------------------------------------------------------
def test_configuration_survives_blanks_and_percent_signs(own_home, tmp_path):
    home = own_home / "100% mine"
    home.mkdir()
    program = Program("web", ["/bin/echo", "50%", "two words", "--parent=%(ENV_LEASH_PID)s"], priority=1)
    write_configuration(home, tmp_path, [program])
    path = configuration_path(home)
    assert path.stat().st_mode & 0o777 == 0o600
    parser = RawConfigParser()
    parser.read(path)
    command = parser["program:web"]["command"] % {"ENV_LEASH_PID": "7"}
    assert shlex.split(command) == ["/bin/echo", "50%", "two words", "--parent=7"]
    assert parser["program:web"]["stdout_logfile"] % {} == f"{home}/log/web.log"
    assert parser["group:apps"]["programs"] == "web"


def test_long_home_gets_a_short_private_socket(tmp_path):
    home = tmp_path / ("x" * 100)
    path = socket_path(home)
    try:
        assert len(str(path)) < 90
        assert path.parent.stat().st_mode & 0o777 == 0o700
        path.parent.chmod(0o755)
        with pytest.raises(ServerError, match="is not private"):
            socket_path(home)
    finally:
        path.parent.rmdir()


def test_demo_runs_unless_it_is_left_out(tmp_path):
    names = [
        [program.name for program in app_programs(tmp_path, "127.0.0.1", 1, demo)] for demo in (True, False)
    ]
    assert set(names[0]) - set(names[1]) == {"demo"}


# -- one up per home ----------------------------------------------------------------------------------------
def test_claim_is_refused_while_another_holds_it(tmp_path):
    assert not claim.is_taken(tmp_path)
    lock = claim.take(tmp_path)
    claim.write(tmp_path, claim.Claim(4711, "http://127.0.0.1:8000/"))
    assert claim.is_taken(tmp_path)
    with pytest.raises(ServerError, match=r"at http://127\.0\.0\.1:8000/, process 4711"):
        claim.take(tmp_path)
    claim.os.close(lock)
    assert not claim.is_taken(tmp_path)
    claim.os.close(claim.take(tmp_path))


# -- logs ---------------------------------------------------------------------------------------------------
def test_logs_are_followed_through_rotation_and_new_files(tmp_path):
    folder = tmp_path / "log"
    folder.mkdir()
    web = folder / "web.log"
    web.write_text("one\ntw")
    logs = Logs(tmp_path)
    assert list(logs.new_lines(colour=False)) == ["web | one"]
    with web.open("a") as log:
        log.write("o\n")
    (folder / "worker.log").write_text("hello\n")
    assert list(logs.new_lines(colour=False)) == ["web    | two", "worker | hello"]
    web.rename(folder / "web.log.1")
    web.write_text("three\n")
    assert list(islice(logs.follow(colour=False), 2)) == ["web    | three", ""]


def test_colour_is_for_the_prefix_alone(tmp_path):
    (tmp_path / "log").mkdir()
    (tmp_path / "log" / "web.log").write_text("one\n")
    assert list(Logs(tmp_path).new_lines(colour=True)) == ["\x1b[36mweb | \x1b[0mone"]
