"""Runs a program that ends when its parent does, even when the parent is killed with -9.

    leash.py [--parent=PID] [--user=NAME] [--lock=FILE] SIGNAL -- program arguments...

The kernel sends SIGNAL (INT, TERM, ...; 0: none, it may outlive its parent) to the program as soon as the parent
is gone. `--user` gives up root for good first: a change of user clears the kernel's note. The program finds its
own pid in LEASH_PID, for the leashes of the programs that it starts. `--lock` is held as long as the program or any
child of it lives; the start waits for it. Standard library only; run by its path.
"""

import argparse
import ctypes
import fcntl
import os
import pwd
import signal
import sys

PR_SET_PDEATHSIG = 1
LOCK_SECONDS = 60


def main(argv: list[str]) -> None:
    options = parse(argv)
    parent = options.parent or os.getppid()
    if options.lock:
        hold(options.lock)
    if options.user:
        become(options.user)
    if options.signal != "0":
        die_with_parent(parent, signal.Signals[f"SIG{options.signal}"])
    for ignored in (signal.SIGPIPE, signal.SIGXFSZ):  # Python ignores them, a program would inherit that
        signal.signal(ignored, signal.SIG_DFL)
    os.environ["LEASH_PID"] = str(os.getpid())
    try:
        os.execvp(options.program[0], options.program)  # noqa: S606
    except OSError as error:
        sys.exit(f"{options.program[0]}: {error.strerror}")


def parse(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="run a program that ends when its parent does")
    parser.add_argument("--parent", type=int, default=0)
    parser.add_argument("--user", default="")
    parser.add_argument("--lock", default="")
    parser.add_argument("signal")
    parser.add_argument("program", nargs="+")
    return parser.parse_args(argv)


def hold(path: str) -> None:
    """Lock the file and leave it open for the program; SIGALRM ends us when another holds it for too long."""
    number = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    signal.alarm(LOCK_SECONDS)
    fcntl.flock(number, fcntl.LOCK_EX)
    signal.alarm(0)
    os.set_inheritable(number, True)


def become(user: str) -> None:
    """Take on the user's ids, with no way back. Does nothing when we are that user."""
    entry = pwd.getpwnam(user)
    if os.geteuid() == entry.pw_uid:
        return
    os.setgroups([entry.pw_gid])
    os.setgid(entry.pw_gid)
    os.setuid(entry.pw_uid)
    os.environ.update(HOME=entry.pw_dir, USER=user, LOGNAME=user)


def die_with_parent(parent: int, number: signal.Signals) -> None:
    """Ask the kernel for `number` at the parent's death; exit when `parent` died before we could ask."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_PDEATHSIG, int(number), 0, 0, 0):
        sys.exit(f"prctl: {os.strerror(ctypes.get_errno())}")
    if os.getppid() != parent:
        sys.exit(f"process {parent}, which wanted this program, has ended")


if __name__ == "__main__":
    main(sys.argv[1:])
