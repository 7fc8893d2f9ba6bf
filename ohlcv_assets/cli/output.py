"""Standard output, which may be full: its refusal is told apart from that of any other file.

Lives here: a stream that turns what its disk says into an error of ours. Does not: what is written (cli/formats.py), or who reads
no further, as `head` does: that is no error (cli/__init__.py).
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from typing import IO, Any, cast

from ohlcv_assets.errors import Refused


@contextmanager
def told_output() -> Iterator[None]:
    """Inside, a standard output that cannot be written raises `Refused`."""
    try:
        with redirect_stdout(cast(IO[str], _Told(sys.stdout))):
            yield
    except Refused:
        try:
            sys.stdout.flush()
        except OSError:
            discard_output()
        raise


def discard_output() -> None:
    """What is left goes nowhere: Python's own last flush must not fail of it."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


class _Told:
    """A stream, and its buffer, in all but its errors."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    @property
    def buffer(self) -> _Told:
        return _Told(self._stream.buffer)

    def write(self, content: Any) -> Any:
        with _told():
            return self._stream.write(content)

    def flush(self) -> None:
        with _told():
            self._stream.flush()


@contextmanager
def _told() -> Iterator[None]:
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        raise Refused(
            f"standard output cannot be written: {error.strerror}", hint="send it where there is room"
        ) from error
