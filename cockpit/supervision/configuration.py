"""Writes supervisord's configuration: private, controlled through a unix socket, no TCP."""

import hashlib
import os
import shlex
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path

from cockpit.servers import ServerError
from cockpit.servers.base import write_private
from cockpit.supervision.programs import SUPERVISOR_PID, Program

LONGEST_SOCKET = 90  # the kernel takes 107, supervisord adds its pid while it binds

SUPERVISOR = """\
[unix_http_server]
file = {socket}
chmod = 0700

[supervisord]
nodaemon = true
silent = true
logfile = {home}/log/supervisord.log
logfile_maxbytes = 1MB
logfile_backups = 2
pidfile = {home}/supervisord.pid
childlogdir = {home}/log
{user}
[rpcinterface:supervisor]
supervisor.rpcinterface_factory = supervisor.rpcinterface:make_main_rpcinterface
"""
PROGRAM = """
[program:{name}]
command = {command}
directory = {checkout}
priority = {priority}
autostart = false
autorestart = {restart}
startsecs = 1
startretries = 5
stopsignal = {stop_signal}
stopwaitsecs = {stop_seconds}
killasgroup = true
redirect_stderr = true
stdout_logfile = {home}/log/{name}.log
stdout_logfile_maxbytes = 10MB
stdout_logfile_backups = 3
"""
GROUP = """
[group:{name}]
programs = {programs}
priority = {priority}
"""


def configuration_path(home: Path) -> Path:
    return home / "supervisord.conf"


def write_configuration(home: Path, checkout: Path, programs: Sequence[Program]) -> None:
    """Write `<home>/supervisord.conf`. Times are in seconds; logs turn over at 10 MB, three old ones are kept."""
    (home / "log").mkdir(exist_ok=True)
    user = "user = root\n" if os.geteuid() == 0 else ""
    parts = [SUPERVISOR.format(socket=escape(socket_path(home)), home=escape(home), user=user)]
    parts += [program_section(home, checkout, program) for program in programs]
    for name, members in groupby(programs, key=lambda program: program.group):
        group = list(members)
        if name != group[0].name:
            names = ",".join(program.name for program in group)
            parts.append(GROUP.format(name=name, programs=names, priority=group[0].priority))
    write_private(configuration_path(home), "".join(parts))


def program_section(home: Path, checkout: Path, program: Program) -> str:
    command = escape(shlex.join(program.argv)).replace(escape(SUPERVISOR_PID), SUPERVISOR_PID)
    values = {**vars(program), "command": command, "home": escape(home), "checkout": escape(checkout)}
    return PROGRAM.format(**values)


def escape(text: str | Path) -> str:
    """Return `text` so that supervisord reads it as it is."""
    return str(text).replace("%", "%%")


def socket_path(home: Path) -> Path:
    """Return supervisord's socket: in the home, or in a private folder when that path is too long for one."""
    path = home / "supervisor.sock"
    if len(str(path)) <= LONGEST_SOCKET:
        return path
    folder = Path(f"/tmp/mistersmith-{os.getuid()}-{hashlib.sha256(str(home).encode()).hexdigest()[:12]}")  # noqa: S108
    folder.mkdir(mode=0o700, exist_ok=True)
    found = folder.lstat()
    if found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise ServerError(f"{folder} is not private to us", "remove it, or use a shorter MISTERSMITH_HOME")
    return folder / path.name
