"""What `up` runs: the embedded servers first, then our own processes."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cockpit.servers import Server
from cockpit.servers.base import leashed

# supervisord writes its pid here when it reads the configuration: see leash.py
SUPERVISOR_PID = "%(ENV_LEASH_PID)s"
APPS = "apps"


@dataclass(frozen=True)
class Program:
    """A process of supervisord's. Smaller `priority` starts earlier and stops later."""

    name: str
    argv: list[str]
    priority: int
    group: str = APPS  # the programs of a group stop together
    stop_signal: str = "TERM"
    stop_seconds: int = 20
    restart: str = "true"  # or "unexpected": ending with 0 is fine


def server_programs(servers: Sequence[Server]) -> list[Program]:
    return [
        Program(
            name=server.name,
            argv=server.command(SUPERVISOR_PID),
            priority=10 + number,
            group=server.name,
            stop_signal=server.stop_signal,
            stop_seconds=server.stop_seconds,
        )
        for number, server in enumerate(servers)
    ]


def app_programs(checkout: Path, bind: str, port: int, with_demo: bool) -> list[Program]:
    """Return our own processes. `bind` and `port`: where the web server listens."""
    manage = [sys.executable, str(checkout / "manage.py")]
    celery = [sys.executable, "-m", "celery", "-A", "config"]
    programs = [
        app("web", web_server(bind, port)),
        app("worker", celery_worker("worker", "tasks", processes=2)),
        app("upkeep", celery_worker("upkeep", "mistersmith", processes=1)),
        app("beat", [*celery, "beat", "--loglevel=INFO"]),
        app("bridge", [*manage, "bridge", "run"]),
    ]
    if with_demo:
        programs.append(app("demo", [*manage, "demo", "run"], restart="unexpected"))
    return programs


def web_server(bind: str, port: int) -> list[str]:
    web = [sys.executable, "-m", "gunicorn", "config.wsgi", f"--bind={listen_address(bind, port)}"]
    return [*web, "--workers=2", "--threads=4", "--graceful-timeout=10", "--no-control-socket"]


def celery_worker(name: str, queue: str, processes: int) -> list[str]:
    """Return a worker of one queue: long tasks must not keep the sweeps waiting that find lost ones."""
    worker = [sys.executable, "-m", "celery", "-A", "config", "worker", "--loglevel=INFO", "--without-gossip"]
    return [*worker, f"--hostname={name}@%h", f"--queues={queue}", f"--concurrency={processes}"]


def app(name: str, argv: list[str], restart: str = "true") -> Program:
    return Program(name, leashed(argv, "TERM", SUPERVISOR_PID), priority=50, restart=restart)


def listen_address(bind: str, port: int) -> str:
    return f"[{bind}]:{port}" if ":" in bind else f"{bind}:{port}"
