r"""Every bar of an interval, stored as soon as it is closed: by WebSocket, and what that misses by REST.

Lives here: the run as a whole: when it begins, what runs beside what, when it ends, and that nothing captured is lost
when it is cancelled. Does not: the socket (stream_socket.py), fetching what it misses (stragglers.py), batching
(stream_writer.py), or the bookkeeping (tally.py). Bars go to a sink, which is the caller's.

    exchange --WebSocket--> Socket --closed klines--> Writer --batches--> sink
        \------REST------> Stragglers --frames------/    \--> Tally: stored, awaited, missing
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Coroutine, Sequence
from typing import Any

from ohlcv_assets.bars import Channel
from ohlcv_assets.exchange.binance import Exchange
from ohlcv_assets.exchange.fetch import Progress, first_listed_minute, minutes_frame
from ohlcv_assets.exchange.stragglers import SETTLED_AFTER_S, Stragglers
from ohlcv_assets.exchange.stream_report import Percentiles, StreamReport
from ohlcv_assets.exchange.stream_socket import CONNECTION_SYMBOLS, Socket
from ohlcv_assets.exchange.stream_writer import Sink, Writer
from ohlcv_assets.exchange.tally import Key, Tally
from ohlcv_assets.instruments import Symbol
from ohlcv_assets.logs import get_logger
from ohlcv_assets.timestamps import Interval, iso

#: So long after its end a run still tries to get bars that the exchange gives no healthy answer about.
_PATIENCE_S = 600.0
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
) -> StreamReport:
    """Store every bar of `symbols` whose minute begins in `interval`, as they close.

    Bars come by WebSocket once they are closed (`x: true`); what is not there `delay_s` after its minute's end, and
    what was over before this began, is fetched by REST, asked again until it is there, or named missing: when two
    healthy answers lack it a minute after its end, or when the run's patience is over. An interval that is wholly over
    opens no socket.

    It ends when the exchange's clock is past the interval's end and the overlap, and every minute of the interval is
    stored or named. When it is cancelled it first writes what has arrived. All durations are seconds of the exchange's clock.

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

    Raises:
        UnknownSymbol: one of them is not listed.
        OhlcvError: whatever the sink raises.
    """
    run = _Run(
        exchange, exchange.listing.require(symbols), interval, sink, delay_s, overlap_s, already or (), on_progress
    )
    await run.follow()
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
        self.exchange, self.symbols, self.interval = exchange, symbols, interval
        self.tally = Tally(interval, {s: first_listed_minute(exchange, s) for s in symbols}, already)
        window = Interval(interval.start_ms - overlap_ms, interval.end_ms + overlap_ms)
        self.stays_until_ms = window.end_ms
        self.writer = Writer(exchange.listing, exchange.clock, window, self.tally, sink, self._progress(on_progress))
        now_ms = exchange.clock.now_ms()
        deadline_ms = max(now_ms, window.end_ms + SETTLED_AFTER_S * 1000) + _PATIENCE_S * 1000
        self.stragglers = Stragglers(exchange, self.tally, self.writer, delay_s, deadline_ms)
        self.live = now_ms <= interval.end_ms + delay_s * 1000
        self.sockets = [
            Socket(exchange, symbols[first : first + CONNECTION_SYMBOLS], self.writer.take)
            for first in range(0, len(symbols) if self.live else 0, CONNECTION_SYMBOLS)
        ]
        self.weight_before = exchange.usage.weight

    async def follow(self) -> None:
        """Stream until everything is settled and the overlap is over; write what has arrived in any case."""
        _log.info("streaming begins", market=self.exchange.market.value, interval=str(self.interval), symbols=len(self.symbols), live=self.live)  # fmt: skip
        writing = asyncio.create_task(self.writer.run())
        try:
            await _first_of(self._settle(), _forever(writing), *(socket.run() for socket in self.sockets))
        finally:
            self.writer.finish()
            await asyncio.shield(writing)

    async def _settle(self) -> None:
        await self.stragglers.run()
        if self.live:
            clock = self.exchange.clock
            await clock.sleep((self.stays_until_ms - clock.now_ms()) / 1000)

    def _progress(self, on_progress: Progress | None) -> Callable[[], None]:
        def told() -> None:
            if on_progress is not None:
                on_progress(len(self.tally.stored), self.tally.expected)

        return told

    def report(self) -> StreamReport:
        """The figures of this run."""
        stored, written = self.tally.stored, self.writer.written
        minutes = [minute for _, minute in stored]
        missing = minutes_frame(self.tally.missing)
        if missing.height:
            _log.error("bars are missing", market=self.exchange.market.value, bars=missing.height, first=iso(missing["timestamp"].min()))  # type: ignore[arg-type]  # fmt: skip
        return StreamReport(
            market=self.exchange.market,
            interval=self.interval,
            symbols=tuple(self.symbols),
            bars_expected=self.tally.expected,
            bars_present=len(stored),
            by_channel={channel: sum(came is channel for came in stored.values()) for channel in Channel},
            missing=missing,
            unanswered=len(self.stragglers.unanswered & self.tally.missing),
            latency_s=Percentiles.of(written.latency_s),
            event_to_commit_ms=Percentiles.of(written.event_to_commit_ms),
            overlap_bars=written.overlap_bars,
            reconnects=sum(max(0, socket.connections - 1) for socket in self.sockets),
            rest_repairs=self.stragglers.repairs,
            weight_used=self.exchange.usage.weight - self.weight_before,
            first_timestamp=min(minutes, default=None),
            last_timestamp=max(minutes, default=None),
        )


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
