"""Runs an embedded server without a supervisor: for tests, and for servers that are thrown away after use."""

import os
import signal
import subprocess
from pathlib import Path
from types import TracebackType
from typing import Self

from cockpit.servers.base import Server, ServerError

START_TRIES = 3


class Running:
    """A server started by this process. It stops when the `with` block, or this process, ends."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def log(self) -> Path:
        return self.server.home / "log" / f"{self.server.name}.log"

    def start(self, timeout_seconds: float = 60) -> Self:
        """Prepare, start, and wait until the server answers. Raises ServerError with the end of its log.

        A port that was free may be somebody else's a moment later: a server that ends at once is prepared anew, which
        chooses another port, and started again. Call it from a thread that lives as long as the server should: the
        leash ends with the thread.
        """
        for left in reversed(range(START_TRIES)):
            self.launch()
            try:
                self.server.wait_ready(timeout_seconds, self.is_alive)
            except BaseException:
                ended = not self.is_alive()
                self.kill()
                if not (ended and left):
                    raise
            else:
                break
        return self

    def launch(self) -> None:
        self.server.prepare()
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self.server.command(os.getpid()),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C is for the one who started us
                cwd="/",
            )

    def is_alive(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def stop(self) -> None:
        """Ask the server to stop and wait for it; a second call does nothing."""
        if self.process is None or not self.is_alive():
            return
        self.process.send_signal(signal.Signals[f"SIG{self.server.stop_signal}"])
        try:
            self.process.wait(self.server.stop_seconds)
        except subprocess.TimeoutExpired as error:
            self.kill()
            seconds = self.server.stop_seconds
            raise ServerError(f"{self.server.name} did not stop within {seconds} s and was killed") from error

    def kill(self) -> None:
        """kill -9, then wait until its child processes have noticed and ended."""
        if self.process is None or not self.is_alive():
            return
        self.process.kill()
        self.process.wait()
        self.server.wait_for_predecessor(self.server.stop_seconds)

    def restart(self) -> Self:
        self.stop()
        return self.start()

    def __enter__(self) -> Self:
        return self if self.is_alive() else self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
