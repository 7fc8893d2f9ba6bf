"""The store that a stream never waits for: bars go to PostgreSQL, and to disk while it is away.

Lives here: `SafeStore`: when bars go straight in, when they are spooled, and the task that takes the spool to the
database when it is back. Does not: the files (spool.py), or the database's own errors and sessions (database.py).

While anything waits in the spool, new bars go behind it: they reach the database in the order of their capture, so that of
two values of one bar the first stays the first.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import polars as pl

from ohlcv_assets.bars import Channel
from ohlcv_assets.errors import CorruptFile, DatabaseUnavailable, OhlcvError
from ohlcv_assets.logs import get_logger
from ohlcv_assets.storage.database import Database
from ohlcv_assets.storage.spool import Origin, Spool

#: A database that takes longer for a batch counts as away, whatever it says in the end; in our own seconds.
_PATIENCE_S = 2.0
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.1, 2.0
_log = get_logger()


@dataclass(frozen=True)
class Kept:
    """What became of a batch.

    Attributes:
        stored: None when it is in the database; otherwise done when it is, failed with `CorruptFile` when its file was
            damaged on disk and the bars are lost, cancelled when it stays on disk for the next run.
        refused: the bars that could be kept nowhere; None when there are none.
    """

    stored: asyncio.Future[None] | None = None
    refused: pl.DataFrame | None = None


class SafeStore:
    """Bars of one run on their way to the database; an async context manager.

    Leaving it does not wait for the spool: what is in it stays, and the next run of the market takes it in.

    Args:
        database: the store.
        spool: of the run's market.
        run_id: stored with every bar.
    """

    def __init__(self, database: Database, spool: Spool, *, run_id: str) -> None:
        self._database, self._spool, self._run_id = database, spool, run_id
        self._mine: dict[Path, asyncio.Future[None]] = {}
        self._behind = asyncio.Event()
        self._empty = asyncio.Event()
        self._slow: asyncio.Task[object] | None = None
        self._draining: asyncio.Task[None]

    async def __aenter__(self) -> Self:
        """Begin to take in what earlier runs have left."""
        left = await asyncio.to_thread(self._spool.waiting)
        if left:
            _log.warning("bars of an earlier run wait in the spool", files=len(left), bars=sum(f.rows for f in left), folder=str(self._spool.folder))  # fmt: skip
            self._behind.set()
        else:
            self._empty.set()
        self._draining = asyncio.create_task(self._drain())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Stop; what is in the spool stays there.

        Raises:
            PermanentError: the database has refused for good, and nothing else is being raised.
        """
        self._draining.cancel()
        (ended,) = await asyncio.gather(self._draining, return_exceptions=True)
        self._give_up()
        if error is None and isinstance(ended, OhlcvError):
            raise ended

    async def take(self, bars: pl.DataFrame, channel: Channel) -> Kept:
        """Store a batch, or keep it on disk until it can be stored; returns as soon as it is safe.

        Args:
            bars: `CAPTURED_SCHEMA`, at least one.
            channel: how they came.

        Raises:
            PermanentError: the database refuses for good; nothing that waits is lost.
        """
        if self._draining.done():
            self._draining.result()
        if not self._behind.is_set() and await self._stored_at_once(bars, channel):
            return Kept()
        return await self._spooled(bars, channel)

    async def emptied(self, patience_s: float) -> bool:
        """Wait so many of our own seconds until nothing waits in the spool; whether that is so."""
        emptied = asyncio.ensure_future(self._empty.wait())
        try:
            await asyncio.wait({emptied, self._draining}, timeout=patience_s, return_when=asyncio.FIRST_COMPLETED)
        finally:
            emptied.cancel()
        if self._draining.done():
            self._draining.result()
        return self._empty.is_set()

    async def _stored_at_once(self, bars: pl.DataFrame, channel: Channel) -> bool:
        origin = Origin(channel, self._run_id)
        recording = asyncio.create_task(asyncio.to_thread(self._record, bars, origin))
        done, _ = await asyncio.wait({recording}, timeout=_PATIENCE_S)
        if not done:
            # It may succeed after all: recording the same bars again from the spool is harmless.
            self._slow = recording
            _log.warning("the database does not answer: bars wait in the spool", folder=str(self._spool.folder))
            return False
        try:
            recording.result()
        except DatabaseUnavailable as error:
            _log.warning("the database is away: bars wait in the spool", folder=str(self._spool.folder), error=error.message)  # fmt: skip
            return False
        return True

    async def _spooled(self, bars: pl.DataFrame, channel: Channel) -> Kept:
        path = await asyncio.to_thread(self._spool.append, bars, Origin(channel, self._run_id))
        self._empty.clear()
        self._behind.set()
        if path is None:
            return Kept(refused=bars)
        stored: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._mine[path] = stored
        return Kept(stored=stored)

    async def _drain(self) -> None:
        """Take the spool to the database whenever there is something in it; ends only by a permanent error."""
        try:
            await self._drain_for_ever()
        except OhlcvError as error:
            _log.error("the spool cannot be taken in", folder=str(self._spool.folder), error=error.message)
            self._give_up()
            raise

    def _give_up(self) -> None:
        """Nobody shall wait any more for bars that stay on disk."""
        for stored in self._mine.values():
            stored.cancel()

    async def _drain_for_ever(self) -> None:
        pause_s = _FIRST_PAUSE_S
        while True:
            await self._behind.wait()
            if self._slow is not None:
                await asyncio.gather(self._slow, return_exceptions=True)
                self._slow = None
            try:
                recorded = await asyncio.to_thread(self._spool.drain, self._record)
                pause_s = _FIRST_PAUSE_S
            except DatabaseUnavailable:
                await asyncio.sleep(pause_s)
                pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
                continue
            await self._settle(recorded)

    async def _settle(self, recorded: int) -> None:
        """Tell whose bars are in, and whether that is all."""
        waiting = await asyncio.to_thread(self._spool.waiting)
        there = {file.path for file in waiting}
        # Files of this run may have been recorded by another one.
        for path in [path for path in self._mine if path not in there]:
            self._resolve(path)
        if waiting:
            # Nothing done although something waits: another run is at it.
            await asyncio.sleep(0 if recorded else _FIRST_PAUSE_S)
        elif not self._mine:
            _log.info("the spool is empty", folder=str(self._spool.folder))
            self._behind.clear()
            self._empty.set()

    def _resolve(self, path: Path) -> None:
        try:
            # A file that was written after the others were listed is there after all.
            if self._spool.is_recorded(path):
                self._mine.pop(path).set_result(None)
        except CorruptFile as error:
            self._mine.pop(path).set_exception(error)

    def _record(self, bars: pl.DataFrame, origin: Origin) -> object:
        return self._database.record(bars, channel=origin.channel, run_id=origin.run_id, patience_s=0.0)
