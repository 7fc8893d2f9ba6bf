"""Captured bars on disk while PostgreSQL is away: a bounded queue of files that survives kill -9.

Lives here: `Spool`, the files of one market under `OHLCV_HOME/spool/<market>/`: written whole, read in the order of their
names, removed once they are recorded. Does not: deciding when bars take this way (storage/safe_store.py).

A file is one batch: a line of JSON (the bars' origin), then Arrow IPC. It is written under another name, synced and
renamed, and its name holds the hash of its content: it is there whole or not at all. All runs of a market share one
folder: each writes files of its own, and whoever holds the lock takes the oldest ones to the database, no matter
whose. A file that is gone is recorded. A run that dies between recording and removing leaves a file that the next
one records again, which changes nothing.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import filelock
import polars as pl

from ohlcv_assets.bars import CAPTURED_SCHEMA, Channel, conform
from ohlcv_assets.errors import CorruptFile, InvalidBars, OhlcvError, Refused
from ohlcv_assets.instruments import Market
from ohlcv_assets.logs import get_logger
from ohlcv_assets.settings import Settings

#: Bars that are recorded in one go: so many travel as parameters of one statement.
_ROWS_A_BATCH = 5_000
#: Writing takes milliseconds; a draft that nobody touched for so long has lost its writer.
_ORPHAN_AGE_S = 600.0
_VERSION = 1
_NAME = re.compile(r"(?P<nanoseconds>[0-9]{20})-[0-9]+-(?P<rows>[0-9]+)-(?P<digest>[0-9a-f]{16})\.bars")
_log = get_logger()


class Origin(NamedTuple):
    """How a batch was captured: what the database stores beside each bar."""

    channel: Channel
    run_id: str


#: Stores a batch for good; harmless twice.
Record = Callable[[pl.DataFrame, Origin], object]


@dataclass(frozen=True, order=True)
class SpooledFile:
    """One batch that waits: where it is, how many bars it holds, and its bytes."""

    path: Path
    rows: int
    size: int


class Spool:
    """The waiting batches of one market.

    Args:
        folder: made when it is not there.
        limit_bytes: what would make the files larger than this is not taken.

    Raises:
        Refused: the folder cannot be made.
    """

    def __init__(self, folder: Path, *, limit_bytes: int) -> None:
        self.folder, self.limit_bytes = folder, limit_bytes
        self._lock_path = folder / ".lock"
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise Refused(f"{folder} cannot be made: {error}", hint="see that OHLCV_HOME is writable") from error
        waiting = self.waiting()
        self._bytes = sum(file.size for file in waiting)
        # A machine's clock may be set back; the order of the files may not.
        self._last_ns = int(waiting[-1].path.name[:20]) if waiting else 0

    @classmethod
    def of(cls, settings: Settings, market: Market) -> Spool:
        """The spool of this market and region under OHLCV_HOME."""
        folder = settings.home / "spool" / settings.region / market.value
        return cls(folder, limit_bytes=settings.spool_limit_mib * 2**20)

    def append(self, bars: pl.DataFrame, origin: Origin) -> Path | None:
        """Keep a batch; returns when it is on disk.

        Args:
            bars: `CAPTURED_SCHEMA`, at least one.
            origin: how they were captured.

        Returns:
            Its file, which is gone once the bars are recorded; None when the limit or the disk does not allow it (it
            is logged, and nothing was kept: older bars are never given up for newer ones).
        """
        content = _packed(bars, origin)
        if self._bytes + len(content) > self.limit_bytes:
            # Others may have taken files away since; looking is dearer than adding.
            self._bytes = sum(file.size for file in self.waiting())
        if self._bytes + len(content) > self.limit_bytes:
            _log.error("the spool is full: these bars have to be fetched again", folder=str(self.folder), bars=bars.height, limit_bytes=self.limit_bytes)  # fmt: skip
            return None
        path = self.folder / self._name(bars.height, content)
        try:
            _write_synced(path, content)
        except OSError as error:
            _log.error("a batch cannot be spooled: these bars have to be fetched again", file=str(path), bars=bars.height, error=str(error))  # fmt: skip
            return None
        self._bytes += len(content)
        return path

    def waiting(self) -> list[SpooledFile]:
        """Every batch that waits, of all runs, oldest first."""
        found = []
        with os.scandir(self.folder) as entries:
            for entry in entries:
                if named := _NAME.fullmatch(entry.name):
                    with suppress(FileNotFoundError):
                        found.append(SpooledFile(Path(entry.path), int(named["rows"]), entry.stat().st_size))
        return sorted(found)

    def is_recorded(self, path: Path) -> bool:
        """Whether a file that `append` gave is recorded.

        Raises:
            CorruptFile: it was set aside, for it is damaged or holds what the database refuses.
        """
        if path.exists():
            return False
        aside = _aside(path)
        if aside.exists():
            raise CorruptFile(f"{aside} could not be recorded", hint="its bars are fetched again by REST")
        return True

    def drain(self, record: Record) -> int:
        """Record the oldest batches, one statement's worth, and remove their files.

        Args:
            record: stores bars of one origin for good.

        Returns:
            How many bars were recorded: 0 when nothing waits, or another process is at it.

        Raises:
            OhlcvError: what `record` raises, save `InvalidBars`: everything stays as it was.
        """
        lock = filelock.FileLock(self._lock_path)
        try:
            lock.acquire(timeout=0)
        except filelock.Timeout:
            return 0
        try:
            self._sweep()
            batch, origin = self._next_batch(self.waiting())
            return self._recorded(batch, origin, record) if origin is not None else 0
        finally:
            lock.release()

    def _name(self, rows: int, content: bytes) -> str:
        self._last_ns = max(self._last_ns + 1, time.time_ns())
        return f"{self._last_ns:020d}-{os.getpid()}-{rows}-{hashlib.sha256(content).hexdigest()[:16]}.bars"

    def _next_batch(
        self, waiting: Sequence[SpooledFile]
    ) -> tuple[list[tuple[SpooledFile, pl.DataFrame]], Origin | None]:
        """The oldest files that can be recorded together: of one origin, and each key once."""
        batch: list[tuple[SpooledFile, pl.DataFrame]] = []
        common: Origin | None = None
        seen: set[tuple[str, int]] = set()
        for file in waiting:
            opened = self._opened(file)
            if opened is None:
                continue
            bars, origin = opened
            keys = set(bars.select("symbol", "timestamp").iter_rows())
            if common not in (None, origin) or keys & seen or (batch and len(seen) + file.rows > _ROWS_A_BATCH):
                break
            batch.append((file, bars))
            common, seen = origin, seen | keys
        return batch, common

    def _opened(self, file: SpooledFile) -> tuple[pl.DataFrame, Origin] | None:
        try:
            return _unpacked(file.path)
        except FileNotFoundError:
            return None
        except CorruptFile as error:
            self._set_aside([file], error)
            return None

    def _recorded(self, batch: Sequence[tuple[SpooledFile, pl.DataFrame]], origin: Origin, record: Record) -> int:
        try:
            record(pl.concat([bars for _, bars in batch]), origin)
        except InvalidBars as error:
            if len(batch) == 1:
                self._set_aside([batch[0][0]], error)
                return 0
            # One of them is bad: alone each shows whether it is the one.
            return sum(self._recorded([each], origin, record) for each in batch)
        self._remove(file for file, _ in batch)
        return sum(bars.height for _, bars in batch)

    def _remove(self, files: Iterable[SpooledFile]) -> None:
        for file in files:
            file.path.unlink(missing_ok=True)
            self._bytes = max(0, self._bytes - file.size)

    def _set_aside(self, files: Iterable[SpooledFile], error: OhlcvError) -> None:
        for file in files:
            _log.error(
                "a spooled batch is set aside", file=str(_aside(file.path)), bars=file.rows, error=error.message
            )
            file.path.rename(_aside(file.path))
            self._bytes = max(0, self._bytes - file.size)

    def _sweep(self) -> None:
        """Remove what a run that was killed in the middle of writing has left."""
        for draft in self.folder.glob(".draft-*"):
            with suppress(FileNotFoundError):
                if time.time() - draft.stat().st_mtime > _ORPHAN_AGE_S:
                    draft.unlink()


def _aside(path: Path) -> Path:
    return path.with_suffix(".unusable")


def _packed(bars: pl.DataFrame, origin: Origin) -> bytes:
    buffer = io.BytesIO()
    header = {"version": _VERSION, "channel": str(origin.channel), "run_id": origin.run_id}
    buffer.write(json.dumps(header).encode() + b"\n")
    bars.select(list(CAPTURED_SCHEMA)).write_ipc_stream(buffer)
    return buffer.getvalue()


def _unpacked(path: Path) -> tuple[pl.DataFrame, Origin]:
    """The batch in a file.

    Raises:
        CorruptFile: the content is not what was written.
    """
    content = path.read_bytes()
    named = _NAME.fullmatch(path.name)
    if named is None or hashlib.sha256(content).hexdigest()[:16] != named["digest"]:
        raise CorruptFile(f"{path} does not have the hash in its name")
    header, _, body = content.partition(b"\n")
    try:
        said = json.loads(header)
        bars = conform(pl.read_ipc_stream(io.BytesIO(body)))
        return bars, Origin(Channel(said["channel"]), said["run_id"])
    except (ValueError, KeyError, TypeError, pl.exceptions.PolarsError, InvalidBars) as error:
        # The hash is right: another version of the package wrote it.
        raise CorruptFile(f"{path} is no batch of this version: {error}") from error


def _write_synced(path: Path, content: bytes) -> None:
    """The file under its name, whole and synced; a draft that could not be finished is removed."""
    draft = path.with_name(f".draft-{path.name}")
    try:
        with draft.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        draft.rename(path)
    except OSError:
        with suppress(OSError):
            draft.unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
