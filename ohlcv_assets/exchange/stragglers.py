"""What has not come by WebSocket at T+d is fetched by REST, until it is there or named missing.

Lives here: when to ask for which bars, and when to stop. The part of the interval that was over before the stream began,
the minutes that ended while the socket was down, and single bars that the exchange never sent are all the same
here: bars that are awaited and old enough. Does not: one page (fetch.py), or writing (stream_writer.py).
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable, Sequence

import polars as pl

from ohlcv_assets.errors import OhlcvError, UnknownSymbol
from ohlcv_assets.exchange.binance import PAGE_MINUTES, Exchange
from ohlcv_assets.exchange.budget import Lane
from ohlcv_assets.exchange.fetch import CONCURRENCY, fetch_page, pages_of
from ohlcv_assets.exchange.stream_writer import Writer
from ohlcv_assets.exchange.tally import Key, Tally
from ohlcv_assets.instruments import Symbol
from ohlcv_assets.logs import get_logger
from ohlcv_assets.timestamps import HOUR_MS, MINUTE_MS, Interval, iso, runs_of_minutes

#: A bar may come so many exchange seconds late and still be taken: only then can two answers call it missing.
#: (Binance's own streams are up to half a minute late, its REST lags behind them.)
SETTLED_AFTER_S = 60.0
_ATTEMPTS = 3
_log = get_logger()


class Stragglers:
    """Fetches what is awaited and due.

    Args:
        exchange: the opened market.
        tally: what is awaited.
        writer: where fetched bars go.
        delay_s: d, in seconds of the exchange's clock.
        deadline_ms: when even bars that the exchange gave no healthy answer about are named missing.
        on_fetched: told every page that the exchange gave, before it is stored.

    Attributes:
        repairs: bars fetched because they had not come by WebSocket at T+d, of minutes that ended while this ran.
        unanswered: bars that were named missing without a healthy answer.
        deadline_ms: may be brought forward while it runs.
    """

    def __init__(
        self,
        exchange: Exchange,
        tally: Tally,
        writer: Writer,
        delay_s: float,
        deadline_ms: float,
        on_fetched: Callable[[pl.DataFrame], None] = lambda bars: None,
    ) -> None:
        self.repairs = 0
        self.unanswered: set[Key] = set()
        self._exchange, self._tally, self._writer = exchange, tally, writer
        self._delay_s, self.deadline_ms, self._on_fetched = delay_s, deadline_ms, on_fetched
        self._slots = asyncio.Semaphore(CONCURRENCY)
        self._started_ms = exchange.clock.now_ms()

    async def run(self) -> None:
        """Return when every bar has arrived or is named missing."""
        clock = self._exchange.clock
        asking: set[asyncio.Task[None]] = set()
        try:
            while not self._tally.settled:
                now_ms = clock.now_ms()
                if now_ms >= self.deadline_ms:
                    self._give_up()
                elif due := self._tally.due(now_ms, self._delay_s):
                    self._tally.being_asked(due)
                    asking |= {asyncio.create_task(self._ask_page(symbol, page)) for symbol, page in self._pages(due)}
                else:
                    done, asking = await self._next(asking, self._pause_s(now_ms))
                    for task in done:
                        task.result()
        finally:
            for task in asking:
                task.cancel()
            await asyncio.gather(*asking, return_exceptions=True)

    async def _next(
        self, asking: set[asyncio.Task[None]], pause_s: float
    ) -> tuple[set[asyncio.Task[None]], set[asyncio.Task[None]]]:
        """Wait for a question to end, or for so many exchange seconds: one slow answer must not hold up the others."""
        if asking:
            return await asyncio.wait(
                asking, timeout=self._exchange.clock.wall_s(pause_s), return_when=asyncio.FIRST_COMPLETED
            )
        await self._exchange.clock.sleep(pause_s)
        return set(), set()

    def _pause_s(self, now_ms: float) -> float:
        """Until something is due, but never long: bars that arrive meanwhile may settle everything."""
        next_ms = self._tally.next_due_ms(now_ms, self._delay_s)
        wanted_s = ((next_ms or now_ms) - now_ms) / 1000
        shortest_s = 0.005 * self._exchange.clock.speed
        return max(min(wanted_s, 1.0), 0.05, shortest_s)

    def _pages(self, due: Sequence[Key]) -> list[tuple[Symbol, Interval]]:
        """One page for every run of due minutes of each symbol."""
        minutes_by_symbol: dict[str, list[int]] = defaultdict(list)
        for symbol, minute in due:
            minutes_by_symbol[symbol].append(minute)
        page_minutes = PAGE_MINUTES[self._exchange.market]
        return [
            (Symbol(symbol), page)
            for symbol, minutes in minutes_by_symbol.items()
            for run in runs_of_minutes(minutes)
            for page in pages_of(run, page_minutes)
        ]

    async def _ask_page(self, symbol: Symbol, page: Interval) -> None:
        wanted = [(str(symbol), minute) for minute in page.minutes]
        try:
            async with self._slots:
                # What arrived while this page waited for its turn need not be asked for.
                if not any(self._tally.awaits(key) for key in wanted):
                    return
                # An hour long past is completed when there is room; what the stream has just missed goes first.
                lane = Lane.REALTIME if page.end_ms > self._started_ms - HOUR_MS else Lane.BULK
                bars = await fetch_page(self._exchange, symbol, page, attempts=_ATTEMPTS, lane=lane)
        except UnknownSymbol as refusal:
            self._refused(symbol, wanted, refusal)
            return
        except OhlcvError as error:
            self._failed(wanted, error)
            return
        live = [key for key in wanted if self._tally.awaits(key) and key[1] + MINUTE_MS > self._started_ms]
        self._on_fetched(bars)
        await self._writer.store_fetched(bars)
        self.repairs += sum(self._tally.is_safe(key) for key in live)
        # What the exchange gave and the store had no room for is not lacking on the exchange.
        given = set(bars["timestamp"].to_list())
        self._not_found([key for key in wanted if key[1] not in given])

    def _not_found(self, wanted: Sequence[Key]) -> None:
        """A healthy answer has come; what is still awaited was not in it."""
        absent = self._agreed_absent(wanted)
        if absent:
            _log.warning("minutes are missing on the exchange", symbol=absent[0][0], minutes=len(absent), first=iso(absent[0][1]))  # fmt: skip
            self._tally.name_missing(absent)

    def _agreed_absent(self, wanted: Sequence[Key]) -> list[Key]:
        """Those of the bars that this answer, and one before it, say are not to be had."""
        now_ms = self._exchange.clock.now_ms()
        settled_ms = now_ms - SETTLED_AFTER_S * 1000
        # REST lags behind the events: an answer within a bar's first minute is no witness of its absence.
        witnessed = [key for key in wanted if key[1] + MINUTE_MS <= settled_ms]
        self._tally.asked_in_vain([key for key in wanted if key[1] + MINUTE_MS > settled_ms], now_ms, answered=False)
        self._tally.asked_in_vain(witnessed, now_ms, answered=True)
        return list(self._tally.agreed_absent(witnessed, settled_ms))

    def _refused(self, symbol: Symbol, wanted: Sequence[Key], refusal: UnknownSymbol) -> None:
        """The exchange does not know the symbol: where it does not list it either, these are two witnesses of its absence."""
        if self._exchange.listing[symbol].gone:
            self._tally.name_missing([key for key in wanted if self._tally.awaits(key)])
        else:
            self._failed(wanted, refusal)

    def _failed(self, wanted: Sequence[Key], error: OhlcvError) -> None:
        _log.warning("stragglers could not be fetched", symbol=wanted[0][0], minutes=len(wanted), error=error.message)
        # A refusal is no witness of absence either: the listing says that the symbol trades, and an exchange that is being
        # restarted refuses for a while what it lists. It is asked again, later and later, until the run's deadline.
        self._tally.asked_in_vain(wanted, self._exchange.clock.now_ms(), answered=False)

    def _give_up(self) -> None:
        keys = self._tally.open_keys()
        _log.error("bars could not be fetched in time and are named missing", bars=len(keys))
        self._name_unanswered(keys)

    def _name_unanswered(self, keys: Sequence[Key]) -> None:
        keys = [key for key in keys if self._tally.awaits(key)]
        self.unanswered.update(keys)
        self._tally.name_missing(keys)
