"""The files under deploy/ say the same as the Procfile and docs/settings.md. They are parsed here, not run."""

import configparser
import os
import re
import shlex
import shutil
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
import yaml

from cockpit.servers.nats import program as nats_server

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
PROGRAMS = "/opt/mistersmith/current/.venv/bin/"
COMPOSE = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
SERVERS = {"postgres", "nats", "valkey"}
SECRET = re.compile("SECRET|PASSWORD|_URL$")
HARDENING = {
    "NoNewPrivileges": "yes",
    "ProtectSystem": "strict",
    "ProtectHome": "yes",
    "PrivateTmp": "yes",
    "PrivateDevices": "yes",
    "CapabilityBoundingSet": "",
    "RestrictSUIDSGID": "yes",
    "User": "mistersmith",
    "EnvironmentFile": "/etc/mistersmith/env",
}


def read_procfile():
    """Return name -> command; the release phase is called what it runs."""
    lines = [line.split(": ", 1) for line in (ROOT / "Procfile").read_text().splitlines()]
    return {"prepare" if name == "release" else name: command for name, command in lines}


def read_unit(path):
    unit = configparser.ConfigParser(interpolation=None, delimiters=("=",), comment_prefixes=("#",))
    unit.optionxform = str
    unit.read_string(path.read_text())
    return unit


def read_variables():
    lines = (DEPLOY / "env.example").read_text().splitlines()
    return dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))


PROCESSES = read_procfile()
UNITS = {path.stem.removeprefix("mistersmith-"): read_unit(path) for path in DEPLOY.glob("systemd/*.service")}
VARIABLES = read_variables()


# -- processes ----------------------------------------------------------------------------------------------
def test_units_and_compose_run_the_processes_of_the_procfile_and_no_other():
    assert set(UNITS) == set(PROCESSES)
    assert set(COMPOSE["services"]) == set(PROCESSES) | SERVERS


@pytest.mark.parametrize("name", PROCESSES)
def test_a_process_has_the_same_command_everywhere(name):
    started = UNITS[name]["Service"]["ExecStart"]
    assert started.startswith(PROGRAMS)
    as_in_procfile = started.removeprefix(PROGRAMS).replace("%%", "%").replace("${PORT}", "${PORT:-8000}")
    assert as_in_procfile == PROCESSES[name]
    assert COMPOSE["services"][name]["command"] == PROCESSES[name]


def test_the_processes_are_those_of_up():
    from cockpit.supervision.programs import app_programs

    for program in app_programs(ROOT, "127.0.0.1", 8000, with_demo=False):
        ours = shlex.split(PROCESSES[program.name].replace("=", " "))
        theirs = " ".join(program.argv).replace("=", " ").split()
        options = [word for word in ours if word.startswith("--") and word != "--bind"]
        assert set(options) <= set(theirs), program.name
        for option in ("--queues", "--concurrency", "--workers", "--threads", "--hostname"):
            if option in ours:
                assert ours[ours.index(option) + 1] == theirs[theirs.index(option) + 1], program.name


# -- systemd ------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", PROCESSES)
def test_a_unit_is_confined_and_stops_in_time(name):
    service = UNITS[name]["Service"]
    assert {key: service[key] for key in HARDENING} == HARDENING
    assert service["KillSignal"] == "SIGTERM"
    assert service["Restart"] == ("on-failure" if name == "prepare" else "always")
    grace = COMPOSE["services"][name].get("stop_grace_period")
    if name != "prepare":
        assert grace == f"{service['TimeoutStopSec']}s"


def test_prepare_comes_before_the_others_and_once():
    assert UNITS["prepare"]["Service"]["Type"] == "oneshot"
    for name in set(PROCESSES) - {"prepare"}:
        unit = UNITS[name]["Unit"]
        assert "mistersmith-prepare.service" in unit["After"].split()
        assert unit["Requires"] == "mistersmith-prepare.service"
        wanted = COMPOSE["services"][name]["depends_on"]
        assert wanted == {"prepare": {"condition": "service_completed_successfully"}}


def test_the_target_starts_all_of_them():
    target = read_unit(DEPLOY / "systemd/mistersmith.target")
    assert set(target["Unit"]["Wants"].split()) == {f"mistersmith-{name}.service" for name in PROCESSES}
    for unit in UNITS.values():
        assert unit["Unit"]["PartOf"] == unit["Install"]["WantedBy"] == "mistersmith.target"


def test_systemd_itself_finds_nothing_wrong_with_the_units(tmp_path):
    """The programs are not installed here: anything that is executable stands in for them."""
    if not shutil.which("systemd-analyze"):
        pytest.skip("systemd-analyze is missing: make system-deps")
    for path in DEPLOY.glob("systemd/*"):
        text = re.sub(re.escape(PROGRAMS) + r"[a-z]+", "/bin/true", path.read_text())
        (tmp_path / path.name).write_text(text)
    argv = ["systemd-analyze", "verify", "--man=no", *map(str, sorted(tmp_path.iterdir()))]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60)
    ours = [line for line in done.stderr.splitlines() if "mistersmith" in line]
    # before 254 systemd leaves out what it does not know; the unit says what to do then
    assert [line for line in ours if "RestartMode" not in line] == []
    assert done.returncode == 0 or not ours


# -- compose ------------------------------------------------------------------------------------------------
def test_every_service_that_answers_has_a_health_check():
    silent = {"prepare", "beat"}
    checked = {
        name for name, service in COMPOSE["services"].items() if "test" in service.get("healthcheck", {})
    }
    assert checked == set(COMPOSE["services"]) - silent
    assert COMPOSE["services"]["prepare"]["depends_on"] == {
        name: {"condition": "service_healthy"} for name in SERVERS
    }


def test_postgres_has_pgvector_and_what_doctor_wants():
    from cockpit.checks import WANTED_SETTINGS

    service = COMPOSE["services"]["postgres"]
    assert service["image"] == "pgvector/pgvector:pg18"
    given = dict(pair.split("=") for pair in service["command"].split() if "=" in pair)
    for name, wanted, *_ in WANTED_SETTINGS:
        if name in given:
            assert given[name] in wanted


def test_only_the_pages_can_be_reached_and_from_this_machine_only():
    published = {
        name: service["ports"] for name, service in COMPOSE["services"].items() if "ports" in service
    }
    assert set(published) == {"web"}
    assert all(port.startswith("127.0.0.1:") for port in published["web"])


def test_the_image_leaves_secrets_and_data_out():
    ignored = (DEPLOY / "Dockerfile.dockerignore").read_text().splitlines()
    assert {".git", ".mistersmith", ".venv", "**/env", "**/*.env"} <= set(ignored)
    assert "USER mistersmith" in (DEPLOY / "Dockerfile").read_text().splitlines()


# -- NATS ---------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("password", ["p0123456789abcdef", None])
def test_the_servers_own_parser_takes_nats_conf_and_misses_a_missing_password(password):
    environ = {"PATH": os.environ["PATH"], **({"NATS_PASSWORD": password} if password else {})}
    argv = [nats_server(), "-t", "--config", str(DEPLOY / "nats.conf")]
    done = subprocess.run(argv, env=environ, capture_output=True, text=True, timeout=30)
    assert (done.returncode == 0) == bool(password), done.stderr
    assert password or "NATS_PASSWORD" in done.stderr


# -- variables ----------------------------------------------------------------------------------------------
def documented():
    """Return the variables in the first column of docs/settings.md's tables."""
    rows = re.findall(r"^\| (`[^|]+) \|", (ROOT / "docs/settings.md").read_text(), re.MULTILINE)
    return {name for row in rows for name in re.findall("`([A-Z0-9_]+)`", row)}


def required():
    """Return the variables that docs/settings.md tells every deployment to set."""
    (line,) = re.findall(r"^A deployment sets (.+)\.$", (ROOT / "docs/settings.md").read_text(), re.MULTILINE)
    return set(re.findall("`([A-Z_]+)`", line))


def test_env_example_and_docs_settings_name_the_same_variables():
    assert set(VARIABLES) <= documented()
    assert required() <= set(VARIABLES)


def test_compose_takes_its_variables_from_env_example():
    text = (DEPLOY / "compose.yaml").read_text()
    asked = set(re.findall(r"(?<!\$)\$\{([A-Z_]+)", text)) - {"MISTERSMITH_VERSION"}
    assert asked <= set(VARIABLES)
    given = set(COMPOSE["x-app"]["environment"])
    assert required() <= given
    assert given <= documented()


def test_compose_passes_on_what_env_example_leaves_to_the_operator():
    passed = {name for name, value in COMPOSE["x-app"]["environment"].items() if value is None}
    assert passed <= set(VARIABLES)
    assert {"METRICS_TOKEN", "EMAIL_URL", "ARCHIVE_S3_URL"} <= passed


def test_there_is_no_default_password():
    assert {name: value for name, value in VARIABLES.items() if SECRET.search(name) and value} == {}
    text = (DEPLOY / "compose.yaml").read_text()
    for name, rest in re.findall(r"(?<!\$)\$\{([A-Z_]+)([^}]*)\}", text):
        assert not SECRET.search(name) or rest.startswith(":?"), f"{name} has a default or may be empty"
    for name, service in COMPOSE["services"].items():
        for variable, value in service.get("environment", {}).items():
            assert value is None or not SECRET.search(variable) or ":?" in value, f"{name}: {variable}"
    for unit in UNITS.values():
        assert unit["Service"].get("Environment", "") == "PORT=8000"


# -- health -------------------------------------------------------------------------------------------------
class Page(BaseHTTPRequestHandler):
    """Redirects to https as production does, for the one host it knows."""

    def do_GET(self):
        is_known = self.headers["Host"] == "smith.example.org" and self.path == "/admin/login/"
        self.send_response(301 if is_known else 400)
        self.end_headers()

    def log_message(self, *_):
        pass


@pytest.mark.parametrize(
    ("hosts", "code"), [("smith.example.org,other", 0), (".smith.example.org", 0), ("other", 1)]
)
def test_health_asks_as_a_browser_does(hosts, code):
    with HTTPServer(("127.0.0.1", 0), Page) as server:
        thread = threading.Thread(target=server.handle_request)
        thread.start()
        environ = {"ALLOWED_HOSTS": hosts, "PORT": str(server.server_port)}
        done = subprocess.run([sys.executable, str(DEPLOY / "health.py")], env=environ, timeout=30)
        thread.join()
    assert done.returncode == code
