r"""Every bar of an interval, stored as soon as it is closed: by WebSocket, and what that misses by REST.

Lives here: the run as a whole: when it begins, what runs beside what, when it ends, and that nothing captured is lost
when it is cancelled. Does not: the socket (stream_socket.py), fetching what it misses (stragglers.py), batching
(stream_writer.py), or the bookkeeping (tally.py). Bars go to a sink, which is the caller's.

    exchange --WebSocket--> Socket --closed klines--> Writer --batches--> sink
        \------REST------> Stragglers --frames------/    \--> Tally: stored, awaited, missing
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Collection, Coroutine, Sequence
from typing import Any

import polars as pl

from ohlcv_assets.bars import Channel
from ohlcv_assets.exchange.binance import Exchange
from ohlcv_assets.exchange.fetch import Progress, first_listed_minute, minutes_frame
from ohlcv_assets.exchange.stragglers import SETTLED_AFTER_S, Stragglers
from ohlcv_assets.exchange.stream_report import MINUTES_SCHEMA, Percentiles, StreamReport
from ohlcv_assets.exchange.stream_socket import CONNECTION_SYMBOLS, Socket
from ohlcv_assets.exchange.stream_status import MinuteStatus, StreamStatus
from ohlcv_assets.exchange.stream_writer import Sink, Writer
from ohlcv_assets.exchange.tally import Key, Tally
from ohlcv_assets.instruments import Symbol
from ohlcv_assets.logs import get_logger
from ohlcv_assets.timestamps import MINUTE_MS, Interval, floor_to, iso, label_end

#: So long after its end a run still tries to get bars that the exchange gives no healthy answer about.
_PATIENCE_S = 600.0
#: However fast the replay, a store that is away is waited for so long at the end, in our own seconds; after a stop, less.
_LEAST_PATIENCE_WALL_S, _STOPPED_PATIENCE_WALL_S = 30.0, 10.0
#: A minute is told so many exchange seconds after d: time to fetch what did not come.
_TOLD_AFTER_S = 6.0

OnMinute = Callable[[MinuteStatus], None]
OnStart = Callable[[Callable[[], StreamStatus]], None]
_log = get_logger()


async def stream_bars(
    exchange: Exchange,
    symbols: Sequence[str],
    interval: Interval,
    sink: Sink,
    *,
    delay_s: float,
    overlap_s: float,
    already: Collection[Key] | None = None,
    on_progress: Progress | None = None,
    on_minute: OnMinute | None = None,
    on_start: OnStart | None = None,
    stopping: asyncio.Event | None = None,
) -> StreamReport:
    """Store every bar of `symbols` whose minute begins in `interval`, as they close.

    Bars come by WebSocket once they are closed (`x: true`); what is not there `delay_s` after its minute's end, and
    what was over before this began, is fetched by REST, asked again until it is there, or named missing: when two
    healthy answers lack it a minute after its end, or when the run's patience is over. An interval that is wholly over
    opens no socket.

    It ends when the exchange's clock is past the interval's end and the overlap, and every minute of the interval is
    stored or named; bars that the sink keeps until its store is back are waited for, for as long as the run's patience.
    When it is cancelled it first writes what has arrived. All durations are seconds of the exchange's clock.

    Args:
        exchange: the opened market.
        symbols: unified symbols, all of this market.
        interval: the minutes that must be there.
        sink: takes bars of `CAPTURED_SCHEMA`, sorted by (symbol, timestamp), and returns when they are stored. It may be
            given a bar that it has (overlapping runs), and another value for one (a correction): never twice in a call.
        delay_s: d, the download delay.
        overlap_s: bars of minutes that begin this long before and after the interval are stored as they come, and the
            run stays this long; they are another run's to guarantee.
        already: (symbol, timestamp) that are stored before the run begins: not fetched again.
        on_progress: told (bars settled, bars expected) after each batch.
        on_minute: told every minute of the interval when its bars should be there.
        on_start: given a function that says how the stream stands.
        stopping: once it is set, the minute that runs is the last one of the interval, and there is no overlap.

    Raises:
        UnknownSymbol: one of them is not listed.
        OhlcvError: whatever the sink raises.
    """
    run = _Run(
        exchange, exchange.listing.require(symbols), interval, sink, delay_s, overlap_s, already or (), on_progress
    )
    if on_start is not None:
        on_start(run.status)
    await run.follow(stopping or asyncio.Event(), on_minute)
    return run.report()


class _Run:
    """One call of `stream_bars`."""

    def __init__(
        self,
        exchange: Exchange,
        symbols: Sequence[Symbol],
        interval: Interval,
        sink: Sink,
        delay_s: float,
        overlap_s: float,
        already: Collection[Key],
        on_progress: Progress | None,
    ) -> None:
        overlap_ms = round(overlap_s * 1000)
        self.exchange, self.symbols, self.delay_s = exchange, symbols, delay_s
        self.tally = Tally(interval, {s: first_listed_minute(exchange, s) for s in symbols}, already)
        window = Interval(interval.start_ms - overlap_ms, interval.end_ms + overlap_ms)
        self.stays_until_ms = window.end_ms
        self.writer = Writer(exchange.listing, exchange.clock, window, self.tally, sink, self._progress(on_progress))
        now_ms = exchange.clock.now_ms()
        self.stragglers = Stragglers(
            exchange, self.tally, self.writer, delay_s, _deadline_ms(now_ms, window.end_ms), self._witness
        )
        self.live = now_ms <= interval.end_ms + delay_s * 1000
        # A name that the exchange does not list would be refused, and with it the frame of a hundred others.
        subscribed = [symbol for symbol in symbols if not exchange.listing[symbol].gone]
        self.sockets = [
            Socket(exchange, subscribed[first : first + CONNECTION_SYMBOLS], self.writer.take)
            for first in range(0, len(subscribed) if self.live else 0, CONNECTION_SYMBOLS)
        ]
        self.weight_before = exchange.usage.weight
        self.untold_ms, self.told_latencies = max(floor_to(now_ms, MINUTE_MS), interval.minutes.start), 0

    async def follow(self, stopping: asyncio.Event, on_minute: OnMinute | None) -> None:
        """Stream until everything is settled and the overlap is over; write what has arrived in any case."""
        _log.info("streaming begins", market=self.exchange.market.value, interval=str(self.tally.interval), symbols=len(self.symbols), live=self.live)  # fmt: skip
        writing = asyncio.create_task(self.writer.run())
        beside = [self._heed(stopping), self._tell_minutes(on_minute), *(socket.run() for socket in self.sockets)]
        try:
            await _first_of(self._settle(), _forever(writing), *beside)
        finally:
            self.writer.finish()
            await asyncio.shield(writing)
        patience_s = max(self.exchange.clock.wall_s(_PATIENCE_S), _LEAST_PATIENCE_WALL_S)
        if not await self.writer.all_stored(_STOPPED_PATIENCE_WALL_S if stopping.is_set() else patience_s):
            _log.error("bars are safe and not stored: the store is away", bars=len(self.tally.kept))
        while label_end(self.untold_ms) <= min(self.exchange.clock.now_ms(), self.tally.interval.end_ms):
            self._tell(on_minute)

    async def _settle(self) -> None:
        clock = self.exchange.clock
        await self.stragglers.run()
        while self.live and (left_s := (self.stays_until_ms - clock.now_ms()) / 1000) > 0:
            # In short steps, for it may be told to stop.
            await clock.sleep(min(left_s, max(1.0, 0.05 * clock.speed)))

    async def _heed(self, stopping: asyncio.Event) -> None:
        """Once told to stop, let the minute that runs be the last; never returns."""
        await stopping.wait()
        now_ms = self.exchange.clock.now_ms()
        end_ms = max(floor_to(now_ms, MINUTE_MS), self.tally.interval.start_ms) + MINUTE_MS
        self.stays_until_ms = min(self.stays_until_ms, end_ms)
        self.stragglers.deadline_ms = min(self.stragglers.deadline_ms, _deadline_ms(now_ms, end_ms))
        if end_ms < self.tally.interval.end_ms:
            self.tally.end_at(end_ms)
        _log.info("streaming stops after this minute", interval=str(self.tally.interval))
        await asyncio.Event().wait()

    async def _tell_minutes(self, on_minute: OnMinute | None) -> None:
        """Log every minute when its bars should be there, from the one that runs on; never returns."""
        clock = self.exchange.clock
        while True:
            due_ms = label_end(self.untold_ms) + (self.delay_s + _TOLD_AFTER_S) * 1000
            await clock.sleep((due_ms - clock.now_ms()) / 1000)
            self._tell(on_minute)

    def _tell(self, on_minute: OnMinute | None) -> None:
        """Log the first minute that was not told yet, and whatever has come since the one before."""
        minute_ms, self.untold_ms = self.untold_ms, self.untold_ms + MINUTE_MS
        if minute_ms not in self.tally.interval:
            return
        status = self._minute(minute_ms)
        self.told_latencies = len(self.writer.written.latency_s)
        _log.info("minute", **status.facts())
        if on_minute is not None:
            on_minute(status)

    def _witness(self, fetched: pl.DataFrame) -> None:
        """The exchange gave these bars by REST: the sockets judge themselves by it."""
        traded = fetched.filter(pl.col("trade_count") > 0).select("symbol", "timestamp")
        for symbol, minute in traded.iter_rows():
            for socket in self.sockets:
                socket.witness(symbol, minute)

    def _progress(self, on_progress: Progress | None) -> Callable[[], None]:
        def told() -> None:
            if on_progress is not None:
                on_progress(len(self.tally.stored), self.tally.expected)

        return told

    def _minute(self, minute_ms: int) -> MinuteStatus:
        """The figures of a minute."""
        tally = self.tally
        symbols = [symbol for symbol in self.symbols if tally.expects((symbol, minute_ms))]
        stored = {s: tally.stored[s, minute_ms] for s in symbols if (s, minute_ms) in tally.stored}
        kept = {s: tally.kept[s, minute_ms] for s in symbols if (s, minute_ms) in tally.kept}
        came = [*stored.values(), *kept.values()]
        return MinuteStatus(
            minute_ms=minute_ms,
            expected=len(symbols),
            present=len(stored),
            spooled=len(kept),
            by_channel={channel: came.count(channel) for channel in Channel},
            lacking=tuple(sorted(symbol for symbol in symbols if not tally.is_safe((symbol, minute_ms)))),
            latency_s=Percentiles.of(self.writer.written.latency_s[self.told_latencies :]),
            connected_s=self._connected_s(minute_ms),
            totals=self.status(),
        )

    def _connected_s(self, minute_ms: int) -> float:
        """For how many seconds of a minute all sockets were open; 0 for a run that needs none."""
        return min((socket.connected_s(minute_ms) for socket in self.sockets), default=0.0)

    def _minutes(self) -> pl.DataFrame:
        """Every minute of the interval (`MINUTES_SCHEMA`)."""
        stored = Counter(minute for _, minute in self.tally.stored)
        listed = self.tally.first_minutes.values()
        rows = [
            (minute, self._connected_s(minute), sum(first <= minute for first in listed), stored[minute])
            for minute in self.tally.interval.minutes
        ]
        return pl.DataFrame(rows, schema=MINUTES_SCHEMA, orient="row")

    def status(self) -> StreamStatus:
        """How it stands now."""
        tally, written, now_ms = self.tally, self.writer.written, self.exchange.clock.now_ms()
        over = sum(minute + MINUTE_MS <= now_ms for minute in tally.interval.minutes)
        minutes = tally.interval.minutes[:over]
        came = list(tally.stored.values())
        return StreamStatus(
            market=self.exchange.market,
            interval=tally.interval,
            now_ms=now_ms,
            symbols=len(self.symbols),
            bars_due=sum(
                len(range(max(0, -(-(first - minutes.start) // MINUTE_MS)), over))
                for first in tally.first_minutes.values()
            ),
            bars_present=len(came),
            bars_spooled=len(tally.kept),
            bars_missing=len(tally.missing),
            by_channel={channel: came.count(channel) for channel in Channel},
            latency_s=Percentiles.of(written.latency_s),
            event_to_commit_ms=Percentiles.of(written.event_to_commit_ms),
            reconnects=sum(socket.reconnects for socket in self.sockets),
            hand_overs=sum(socket.hand_overs for socket in self.sockets),
            rest_repairs=self.stragglers.repairs,
            weight_used=self.exchange.usage.weight - self.weight_before,
            last_bars=dict(written.last_bars),
        )

    def report(self) -> StreamReport:
        """The figures of this run."""
        tally, now = self.tally, self.status()
        minutes = [minute for _, minute in tally.stored]
        missing = minutes_frame(tally.missing)
        if missing.height:
            _log.error("bars are missing", market=self.exchange.market.value, bars=missing.height, first=iso(missing["timestamp"].min()))  # type: ignore[arg-type]  # fmt: skip
        return StreamReport(
            market=now.market,
            interval=now.interval,
            symbols=tuple(self.symbols),
            bars_expected=tally.expected,
            bars_present=now.bars_present,
            by_channel=dict(now.by_channel),
            missing=missing,
            unanswered=len(self.stragglers.unanswered & tally.missing),
            latency_s=now.latency_s,
            event_to_commit_ms=now.event_to_commit_ms,
            overlap_bars=self.writer.written.overlap_bars,
            bars_spooled=now.bars_spooled,
            reconnects=now.reconnects,
            hand_overs=now.hand_overs,
            rest_repairs=now.rest_repairs,
            weight_used=now.weight_used,
            minutes=self._minutes(),
            first_timestamp=min(minutes, default=None),
            last_timestamp=max(minutes, default=None),
        )


def _deadline_ms(now_ms: float, stays_until_ms: float) -> float:
    """When even bars that the exchange gave no healthy answer about are named missing."""
    return max(now_ms, stays_until_ms + SETTLED_AFTER_S * 1000) + _PATIENCE_S * 1000


async def _first_of(*jobs: Coroutine[Any, Any, None]) -> None:
    """Run all of `jobs` until the first ends or fails; the others are cancelled and have ended when this returns."""
    tasks = [asyncio.create_task(job) for job in jobs]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _forever(task: asyncio.Task[None]) -> None:
    """Wait for `task` without cancelling it when this wait is cancelled."""
    await asyncio.shield(task)
