"""The one hand that writes what a stream captures, in small batches, as it comes.

Lives here: the queue between capture and sink, and the latencies. Does not: where bars come from, or how they are
stored: the sink is a function of the caller. A sink that raises ends the stream; retrying is the sink's own
business (the database knows better than we do what may be repeated). A sink may also keep bars for later, or have no room
for them: its receipt says so.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple, Protocol

import polars as pl

from ohlcv_assets.bars import Channel
from ohlcv_assets.clock import ExchangeClock
from ohlcv_assets.errors import IncompletePage
from ohlcv_assets.exchange import klines
from ohlcv_assets.exchange.connection import ClosedKline
from ohlcv_assets.exchange.listing import Listing
from ohlcv_assets.exchange.tally import Key, Tally
from ohlcv_assets.logs import get_logger
from ohlcv_assets.timestamps import Interval, label_end


class Receipt(Protocol):
    """What became of the bars that a sink was given."""

    @property
    def stored(self) -> asyncio.Future[None] | None:
        """None when they are stored; otherwise done once they are, failed when they were lost. They are safe meanwhile."""

    @property
    def refused(self) -> pl.DataFrame | None:
        """Those that the sink had no room for."""


#: Takes bars (`CAPTURED_SCHEMA`) of one channel; returns when they are safe. No receipt: all of them are stored for good.
Sink = Callable[[pl.DataFrame, Channel], Awaitable[Receipt | None]]

#: Exchange seconds of gathering before a batch is written: a minute's bars come within some hundred milliseconds.
_GATHER_S = 0.02
#: Bars that found no room are asked for again after so many exchange seconds: the store may be back by then.
_AGAIN_AFTER_S = 60.0
_log = get_logger()


@dataclass
class Written:
    """What was written, for the report."""

    latency_s: list[float] = field(default_factory=list)
    event_to_commit_ms: list[float] = field(default_factory=list)
    overlap_bars: int = 0
    last_bars: dict[str, LastBar] = field(default_factory=dict)


class LastBar(NamedTuple):
    """A symbol's latest bar: the start of its minute, how it came, and its latency (None by REST)."""

    timestamp: int
    channel: Channel
    latency_s: float | None


class _Arrival(NamedTuple):
    """A bar that came by WebSocket: which, and when its event entered this process (monotonic seconds)."""

    key: Key
    received_s: float


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
        self._last_rows: dict[Key, int] = {}
        self._later: set[asyncio.Future[None]] = set()

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
        # Hashes, for an hour of four hundred symbols is 24,000 rows.
        content = hash(tuple(row))
        if self._last_rows.get(key) == content:
            return
        self._last_rows[key] = content
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
            arrivals = [_Arrival(item.key, item.event.received_monotonic_s) for item in batch]
            await self._store(bars, Channel.WEBSOCKET, arrivals)

    async def _store(self, bars: pl.DataFrame, channel: Channel, arrivals: Sequence[_Arrival] = ()) -> None:
        receipt = await self._sink(bars.sort("symbol", "timestamp"), channel)
        refused = set() if receipt is None or receipt.refused is None else set(_keys(receipt.refused))
        if refused:
            self._lose(refused)
        keys = [key for key in _keys(bars) if key not in refused]
        arrivals = [arrival for arrival in arrivals if arrival.key not in refused]
        if receipt is None or receipt.stored is None:
            self._stored(keys, channel, arrivals)
        elif keys:
            self._tally.is_kept(keys, channel)
            self._later.add(receipt.stored)
            receipt.stored.add_done_callback(partial(self._stored_later, keys, channel, arrivals))
            self._on_stored()

    def _stored_later(
        self, keys: Sequence[Key], channel: Channel, arrivals: Sequence[_Arrival], stored: asyncio.Future[None]
    ) -> None:
        self._later.discard(stored)
        if stored.cancelled():
            return
        if stored.exception() is not None:
            self._lose(keys)
        else:
            self._stored(keys, channel, arrivals)

    def _stored(self, keys: Sequence[Key], channel: Channel, arrivals: Sequence[_Arrival]) -> None:
        self._tally.is_stored(keys, channel)
        self.written.overlap_bars += sum(key not in self._tally for key in keys)
        self._measure(keys, channel, arrivals)
        self._on_stored()

    def _lose(self, keys: Iterable[Key]) -> None:
        """These bars were here and could not be kept."""
        keys = list(keys)
        for key in keys:
            self._last_rows.pop(key, None)
        self._tally.reopen(keys, self._clock.now_ms() + _AGAIN_AFTER_S * 1000)

    async def all_stored(self, patience_s: float) -> bool:
        """Wait so many of our own seconds for bars that are kept until the store is back; whether all are stored."""
        if self._later:
            _log.warning("bars wait for the store", batches=len(self._later), patience_s=round(patience_s, 1))
            await asyncio.wait(set(self._later), timeout=patience_s)
        return not self._later

    def _measure(self, keys: Sequence[Key], channel: Channel, arrivals: Sequence[_Arrival]) -> None:
        now_ms, now_s = self._clock.now_ms(), time.monotonic()
        latency_s: dict[Key, float] = {}
        for key, received_s in arrivals:
            latency_s[key] = (now_ms - label_end(key[1])) / 1000
            if key in self._tally:
                self.written.latency_s.append(latency_s[key])
                self.written.event_to_commit_ms.append((now_s - received_s) * 1000)
        for symbol, minute in keys:
            last = self.written.last_bars.get(symbol)
            if last is None or last.timestamp < minute:
                self.written.last_bars[symbol] = LastBar(minute, channel, latency_s.get((symbol, minute)))


def _keys(bars: pl.DataFrame) -> list[Key]:
    return list(zip(bars["symbol"].to_list(), bars["timestamp"].to_list(), strict=True))
