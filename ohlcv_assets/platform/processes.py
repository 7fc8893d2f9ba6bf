"""Child processes that end with us: started with a log file, stopped by their process group.

Lives here: one server process and its life. Does not: which servers there are (servers.py).
"""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from ohlcv_assets.errors import Refused

_POLL_S = 0.1
_PR_SET_PDEATHSIG = 1
# Loaded before any fork: a child between fork and exec must not import anything.
_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None


def free_port() -> int:
    """A TCP port on 127.0.0.1 that nothing listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def require_free(port: int) -> None:
    """Refuse a port that somebody listens on already.

    Raises:
        Refused: the port is taken.
    """
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise Refused(
                f"port {port} is taken: {error.strerror}", hint="choose another, --port 0 for any free one"
            ) from error


class ServerProcess:
    """A server that we started: its own process group, its output in a log file.

    Args:
        name: what people call it; the log file's name.
        command: the program and its arguments.
        environment: the whole environment of the process.
        log_folder: where `<name>.log` is written.
    """

    def __init__(self, name: str, command: Sequence[str], environment: Mapping[str, str], log_folder: Path) -> None:
        log_folder.mkdir(parents=True, exist_ok=True)
        self.name = name
        self.log = log_folder / f"{name}.log"
        with self.log.open("wb") as output:
            self._process = subprocess.Popen(
                list(command),
                env=dict(environment),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=_in_the_child,
            )

    @property
    def pid(self) -> int:
        """The process's number."""
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Whether the process is still running."""
        return self._process.poll() is None

    def wait_until(self, ready: Callable[[], bool], *, timeout_s: float) -> None:
        """Wait until `ready()` says so.

        Raises:
            Refused: the process ended, or was not ready in time; shows the end of its log.
        """
        deadline_s = time.monotonic() + timeout_s
        while not ready():
            if not self.alive or time.monotonic() > deadline_s:
                what = "ended" if not self.alive else f"was not ready within {timeout_s:.0f} s"
                raise Refused(f"{self.name} {what}:\n{self.log_tail()}", hint=f"read the whole log, {self.log}")
            time.sleep(_POLL_S)

    def log_tail(self, lines: int = 15) -> str:
        """The last lines of the log."""
        return "\n".join(self.log.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:])

    def terminate(self) -> None:
        """Ask the whole process group to end; does not wait."""
        self._signal(signal.SIGTERM)

    def stop(self, *, grace_s: float = 15.0) -> None:
        """Ask the process group to end, wait, and end it by force when it does not."""
        self.terminate()
        try:
            self._process.wait(grace_s)
        except subprocess.TimeoutExpired:
            self._signal(signal.SIGKILL)
            self._process.wait()
        # Whatever the server itself started in its group goes as well.
        self._signal(signal.SIGKILL)

    def _signal(self, number: signal.Signals) -> None:
        try:
            os.killpg(self._process.pid, number)
        except ProcessLookupError:
            return


def _in_the_child() -> None:
    # A shell that starts us in the background ignores SIGINT for us and all our children; Dagster's servers
    # handle SIGTERM as SIGINT, and would then not end at all.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if _LIBC is not None:
        # When we are killed outright nobody is left to stop the servers: the kernel does it.
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
