"""Standard output and standard error, which may be full, closed, or read by nobody: what that means, said once for all commands.

Lives here: both streams, and what is done with what cannot be written to them. Does not: what is written (cli/formats.py), or any
command.

- Nobody reads any more, as after `| head`: what a command does is worth doing all the same, and so is its exit code. The rest of what
  it says goes nowhere, and it goes on.
- An answer that is nothing but its bytes, as that of `ohlcv read`, ends there (`answer`), with the exit code 0: who reads has what they
  wanted. Not with 141, as if SIGPIPE had killed it: a script with `pipefail` would fail of `ohlcv read ... | head`, though nothing did.
- A terminal that is gone reads no more, either.
- A reader that is slow is waited for, also where somebody has made the stream one that does not wait (O_NONBLOCK).
- Standard output has no room: an error of ours. Standard error has none: there is nowhere to say so, and the work goes on.
"""

from __future__ import annotations

import errno
import io
import os
import select
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import IO, Any, cast

from ohlcv_assets.errors import Refused

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT)
#: What a terminal answers that is gone; of a file on a broken disk EIO means something else.
_GONE = (errno.EIO, errno.ENXIO)


class _Unread(Exception):
    """Nobody reads an answer any more."""


@contextmanager
def told_output() -> Iterator[None]:
    """Inside, a standard output that cannot be written raises `Refused`, and one that nobody reads ends nothing but an `answer`."""
    out, err = _Out(_waiting(sys.stdout)), _Err(_waiting(sys.stderr))
    try:
        with redirect_stdout(cast(IO[str], out)), redirect_stderr(cast(IO[str], err)):
            yield
    except _Unread:
        raise SystemExit(0) from None
    finally:
        # Python's own last flush must not fail of what is left.
        for stream in (out, err):
            stream.leave()


def answer() -> IO[bytes]:
    """Standard output for the bytes of an answer: when nobody reads them any more, making more of them ends."""
    buffer = sys.stdout.buffer
    return cast(IO[bytes], _Answer(buffer)) if isinstance(buffer, _Out) else buffer


def _waiting(stream: Any) -> Any:
    """The same stream, whose writes wait for a slow reader: Python's own lose what such a pipe does not take at once."""
    if stream is None:  # the shell has closed it (`>&-`)
        return Path(os.devnull).open("w", encoding="utf-8")
    if type(stream) is not io.TextIOWrapper:  # another program's, or a test's
        return stream
    stream.flush()
    raw = _Waiting(stream.fileno(), "wb", closefd=False)
    # python -u has no buffer here: then each write is out at once.
    buffer = raw if isinstance(stream.buffer, io.RawIOBase) else io.BufferedWriter(raw)
    return io.TextIOWrapper(
        cast(IO[bytes], buffer), stream.encoding, stream.errors,
        line_buffering=stream.line_buffering, write_through=stream.write_through,
    )  # fmt: skip


class _Waiting(io.FileIO):
    """A descriptor to which all is written, however little it takes at once."""

    def write(self, content: Any) -> int:
        left = memoryview(content).cast("B")
        whole = len(left)
        while left:
            taken = super().write(left)
            if taken is None:
                select.select([], [self], [])
            left = left[taken or 0 :]
        return whole


class _Out:
    """A stream, and its buffer, in all but what happens to that which cannot be written."""

    def __init__(self, stream: Any, is_read: list[bool] | None = None) -> None:
        self._stream = stream
        # One for a stream and its buffer; a list, for both to see it change.
        self._is_read = [True] if is_read is None else is_read

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    @property
    def buffer(self) -> _Out:
        return type(self)(self._stream.buffer, self._is_read)

    @property
    def is_read(self) -> bool:
        """Whether somebody reads it still."""
        return self._is_read[0]

    def write(self, content: Any) -> Any:
        try:
            return self._stream.write(content)
        except OSError as error:
            self._failed(error)
            return len(content)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except OSError as error:
            self._failed(error)

    def leave(self) -> None:
        """Flush, and drop what cannot be written."""
        try:
            self._stream.flush()
        except OSError:
            self._discard()

    def _failed(self, error: OSError) -> None:
        if not self._is_unread(error):
            self._refuse(error)
        self._discard()

    def _is_unread(self, error: OSError) -> bool:
        if isinstance(error, ConnectionError):
            return True
        return error.errno in _GONE and stat.S_ISCHR(os.fstat(self._stream.fileno()).st_mode)

    def _discard(self) -> None:
        """From now on all of it goes nowhere, also what is buffered and what child processes write."""
        self._is_read[0] = False
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self._stream.fileno())
        os.close(nowhere)

    def _refuse(self, error: OSError) -> None:
        hint = "send it where there is room" if error.errno in _NO_ROOM else "send it to another place"
        raise Refused(f"standard output cannot be written: {error.strerror}", hint=hint) from error


class _Err(_Out):
    """Standard error: where it cannot be written, nothing can be said of it."""

    def _refuse(self, error: OSError) -> None:
        """Nothing."""


class _Answer:
    """The bytes of standard output, as long as somebody reads them."""

    def __init__(self, out: _Out) -> None:
        self._out = out

    def write(self, content: bytes) -> Any:
        written = self._out.write(content)
        self._insist()
        return written

    def flush(self) -> None:
        self._out.flush()
        self._insist()

    def _insist(self) -> None:
        if not self._out.is_read:
            raise _Unread
