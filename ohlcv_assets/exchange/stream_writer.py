"""The one hand that writes what a stream captures, in small batches, as it comes.

Lives here: the queue between capture and sink, and the latencies. Does not: where bars come from, or how they are
stored: the sink is a function of the caller. A sink that raises ends the stream; retrying is the sink's own
business (the database knows better than we do what may be repeated).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import polars as pl

from ohlcv_assets.bars import Channel
from ohlcv_assets.clock import ExchangeClock
from ohlcv_assets.errors import IncompletePage
from ohlcv_assets.exchange import klines
from ohlcv_assets.exchange.listing import Listing
from ohlcv_assets.exchange.stream_socket import ClosedKline
from ohlcv_assets.exchange.tally import Key, Tally
from ohlcv_assets.logs import get_logger
from ohlcv_assets.timestamps import Interval, label_end

#: Takes bars (`CAPTURED_SCHEMA`) of one channel; returns when they are stored for good.
Sink = Callable[[pl.DataFrame, Channel], Awaitable[None]]

#: Exchange seconds of gathering before a batch is written: a minute's bars come within some hundred milliseconds.
_GATHER_S = 0.05
_log = get_logger()


@dataclass
class Written:
    """What was written, for the report."""

    latency_s: list[float] = field(default_factory=list)
    event_to_commit_ms: list[float] = field(default_factory=list)
    overlap_bars: int = 0


@dataclass(frozen=True)
class _Fetched:
    """A frame fetched by REST, and what to tell its fetcher when it is stored."""

    bars: pl.DataFrame
    stored: asyncio.Future[None]


@dataclass(frozen=True)
class _Closed:
    """A closed kline, checked to be in the window and not to have come before."""

    key: Key
    row: list[Any]
    event: ClosedKline


class Writer:
    """Takes closed klines and fetched bars, and gives them to the sink one batch after the other.

    Args:
        listing: the market's, for the symbols' names.
        clock: the exchange's.
        window: bars outside are ignored.
        tally: told what has arrived and what is stored.
        sink: the store.
        on_stored: called after each batch.
    """

    def __init__(
        self,
        listing: Listing,
        clock: ExchangeClock,
        window: Interval,
        tally: Tally,
        sink: Sink,
        on_stored: Callable[[], None],
    ) -> None:
        self.written = Written()
        self._listing, self._clock, self._window, self._tally = listing, clock, window, tally
        self._sink, self._on_stored = sink, on_stored
        self._queue: asyncio.Queue[_Closed | _Fetched | None] = asyncio.Queue()
        self._last_rows: dict[Key, list[Any]] = {}

    def take(self, event: ClosedKline) -> None:
        """Queue a closed kline; never raises. One that is no bar of ours is left to the stragglers, and logged."""
        symbol = self._listing.symbol_of(event.symbol_id)
        try:
            row = klines.row_of_event(event.kline)
            if symbol is None or symbol not in self._tally.first_minutes or row[0] not in self._window:
                return
            # Checked one by one here, so that a batch is sound when it is made.
            klines.check_rows([row])
        except IncompletePage as error:
            _log.warning("a closed kline that is none", symbol_id=event.symbol_id, reason=str(error))
            return
        key = (str(symbol), int(row[0]))
        # The same again (overlapping connections) says nothing new; another value does, and the store keeps both.
        if self._last_rows.get(key) == row:
            return
        self._last_rows[key] = row
        self._tally.arrived(key)
        self._queue.put_nowait(_Closed(key, row, event))

    async def store_fetched(self, bars: pl.DataFrame) -> None:
        """Return when these bars are stored; those that came by WebSocket in the meantime are left out."""
        keys = _keys(bars)
        lacking = [self._tally.awaits(key) for key in keys]
        bars = bars.filter(pl.Series(lacking, dtype=pl.Boolean))
        if bars.is_empty():
            return
        for key in _keys(bars):
            self._tally.arrived(key)
        stored: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._queue.put_nowait(_Fetched(bars, stored))
        await stored

    def finish(self) -> None:
        """Let `run` return once everything that is queued is stored."""
        self._queue.put_nowait(None)

    async def run(self) -> None:
        """Write until `finish`; an error of the sink is raised, and told to whoever waits for its bars."""
        finishing = False
        while not finishing:
            batch = [await self._queue.get()]
            await self._clock.sleep(_GATHER_S if batch[0] is not None else 0)
            while not self._queue.empty():
                batch.append(self._queue.get_nowait())
            finishing = None in batch
            await self._write([item for item in batch if item is not None])

    async def _write(self, batch: Sequence[_Closed | _Fetched]) -> None:
        fetched = [item for item in batch if isinstance(item, _Fetched)]
        try:
            if closed := [item for item in batch if isinstance(item, _Closed)]:
                await self._write_closed(closed)
            if fetched:
                await self._store(pl.concat([item.bars for item in fetched]), Channel.REST)
        except BaseException as error:
            for item in fetched:
                if not item.stored.done():
                    item.stored.set_exception(error)
                    item.stored.exception()  # its fetcher may be gone already
            raise
        for item in fetched:
            if not item.stored.done():
                item.stored.set_result(None)

    async def _write_closed(self, closed: list[_Closed]) -> None:
        # A key that comes twice with two values is written twice, in order: a store takes a key once a call.
        while closed:
            first: dict[Key, _Closed] = {}
            closed = [item for item in closed if first.setdefault(item.key, item) is not item]
            batch = list(first.values())
            bars = klines.bars_of(
                self._listing.market,
                [item.key[0] for item in batch],
                [item.row for item in batch],
                [item.event.received for item in batch],
            )
            await self._store(bars, Channel.WEBSOCKET)
            self._measure(batch)

    async def _store(self, bars: pl.DataFrame, channel: Channel) -> None:
        await self._sink(bars.sort("symbol", "timestamp"), channel)
        keys = _keys(bars)
        self._tally.is_stored(keys, channel)
        self.written.overlap_bars += sum(key[1] not in self._tally.interval for key in keys)
        self._on_stored()

    def _measure(self, batch: Sequence[_Closed]) -> None:
        now_ms, now_s = self._clock.now_ms(), time.monotonic()
        for item in batch:
            if item.key[1] in self._tally.interval:
                self.written.latency_s.append((now_ms - label_end(item.key[1])) / 1000)
                self.written.event_to_commit_ms.append((now_s - item.event.received_monotonic_s) * 1000)


def _keys(bars: pl.DataFrame) -> list[Key]:
    return list(zip(bars["symbol"].to_list(), bars["timestamp"].to_list(), strict=True))
