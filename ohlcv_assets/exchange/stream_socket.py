"""The WebSocket of a stream: one connection at a time, two while one takes over from the other.

Lives here: connecting again when a connection breaks or falls silent, the planned hand-over when the exchange will end
one or delivers only a part of it, and the limit of connections. Does not: a single connection (connection.py), storing, or
fetching what was missed (stream.py, stragglers.py).

A hand-over opens the second connection before the first is closed: every closed kline comes by one of them or by
both, and the writer takes it once.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ohlcv_assets.exchange.binance import Exchange
from ohlcv_assets.exchange.budget import WeightBudget
from ohlcv_assets.exchange.connection import LEAST_SILENCE_WALL_S, Connection, OnClosed, OpenTime, subscription_chunks
from ohlcv_assets.exchange.server_time import BASE_URLS
from ohlcv_assets.instruments import Symbol
from ohlcv_assets.logs import get_logger
from ohlcv_assets.timestamps import MINUTE_MS, label_end

#: Streams a connection; beyond 1,024 the exchange closes it.
CONNECTION_SYMBOLS = 1_000
#: The exchange takes 300 connections in five minutes from one address: five minutes touch six full ones.
_DIALS_PER_MINUTE = 50

_SILENCE_S, _LONGEST_SILENCE_S = 10.0, 80.0
_LONGEST_PAUSE_S = 10.0
#: In a hand-over the old connection stays until klines come by every subscription of the new one, or so many exchange
#: seconds after they came by one of them: some symbols are hardly traded. Without any it stays until its own end.
_TAKING_OVER_S, _LONGEST_STAY_S = 30.0, 540.0
#: A connection that is deaf for some symbols is replaced; if the next one is too, later and later.
_FIRST_DEAF_S, _LONGEST_DEAF_S = 120.0, 3600.0
#: Connections that are remembered, for saying when one was open: more than there can be in some minutes.
_REMEMBERED = 1_000
_log = get_logger()


@dataclass(frozen=True)
class _Life:
    """A connection and the task that lives its life."""

    connection: Connection
    living: asyncio.Task[str]

    async def leaves(self) -> bool:
        """Wait until it ends or will end; whether it is still alive and another one shall take over."""
        leaving = asyncio.create_task(self.connection.leaving.wait())
        try:
            await asyncio.wait({self.living, leaving}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            leaving.cancel()
        return not self.living.done()

    def reason(self) -> str:
        """Why it ended."""
        error = self.living.exception()
        return self.living.result() if error is None else f"{type(error).__name__}: {str(error)[:200]}"

    async def end(self) -> None:
        """End it, in whatever state it is."""
        self.living.cancel()
        await asyncio.gather(self.living, return_exceptions=True)
        await self.connection.close()


class Socket:
    """A WebSocket to one market that is there for as long as `run` is.

    Args:
        exchange: the opened market.
        symbols: at most `CONNECTION_SYMBOLS`.
        on_closed: called with every closed kline; must not raise.

    Attributes:
        connections: how often it was connected because there was no connection (the first time included).
        hand_overs: how often another connection took over from one that still worked.
    """

    def __init__(self, exchange: Exchange, symbols: Sequence[Symbol], on_closed: OnClosed) -> None:
        self.connections = 0
        self.hand_overs = 0
        self._exchange, self._clock, self._on_closed = exchange, exchange.clock, on_closed
        self._ids = {symbol: exchange.listing[symbol].exchange_id for symbol in symbols}
        self._chunks = subscription_chunks(symbols, list(self._ids.values()))
        self._dials = dial_budget(exchange)
        self._current: Connection | None = None
        self._open_times: deque[OpenTime] = deque(maxlen=_REMEMBERED)
        self._retiring: set[asyncio.Task[None]] = set()
        self._silence_s = _SILENCE_S
        self._deaf_pause_s, self._deaf_until_s = _FIRST_DEAF_S, 0.0

    @property
    def reconnects(self) -> int:
        """How often it was connected again because the connection was lost."""
        return max(0, self.connections - 1)

    def connected_s(self, minute_ms: int) -> float:
        """For how many seconds of a minute a connection was open, by the exchange's clock, to a tenth of a second.

        Args:
            minute_ms: the start of the minute.
        """
        now_s, over_ms = time.monotonic(), self._clock.now_ms() - label_end(minute_ms)
        end_s = now_s - self._clock.wall_s(over_ms / 1000)
        start_s = end_s - self._clock.wall_s(MINUTE_MS / 1000)
        spans = [open_time.until(now_s) for open_time in self._open_times]
        open_s = _covered_s(start_s, end_s, (span for span in spans if span is not None))
        return min(round(open_s / self._clock.wall_s(1.0), 1), MINUTE_MS / 1000)

    def witness(self, symbol: Symbol, minute_ms: int) -> None:
        """REST has a bar with trades that did not come by WebSocket: is the symbol's subscription dead?

        It is when it was subscribed before the minute and nothing of the symbol came since, not even an unfinished bar.
        An acknowledgement proves nothing: the exchange acknowledges what it then never delivers.
        """
        connection = self._current
        if connection is None or connection.leaving.is_set() or symbol not in self._ids:
            return
        minute_s = time.monotonic() - self._clock.wall_s((self._clock.now_ms() - minute_ms) / 1000)
        if connection.subscribed_s is None or connection.subscribed_s > minute_s:
            return
        if connection.heard_s(self._ids[symbol]) < minute_s and time.monotonic() >= self._deaf_until_s:
            self._replace_deaf(connection, symbol)

    def _replace_deaf(self, connection: Connection, symbol: Symbol) -> None:
        now_s = time.monotonic()
        if now_s > self._deaf_until_s + self._clock.wall_s(_LONGEST_DEAF_S):
            self._deaf_pause_s = _FIRST_DEAF_S
        self._deaf_until_s = now_s + self._clock.wall_s(self._deaf_pause_s)
        self._deaf_pause_s = min(2 * self._deaf_pause_s, _LONGEST_DEAF_S)
        connection.leave(f"nothing came of {symbol}, which is traded")

    async def run(self) -> None:
        """Stay connected until cancelled; then close everything."""
        fruitless = 0
        life: _Life | None = None
        try:
            while True:
                # Whoever hands over has dialled already.
                life = life or await self._dial()
                if await life.leaves():
                    life = await self._hand_over(life)
                    continue
                ended, life = life, None
                await self._closed(ended.connection)
                fruitless = 0 if ended.connection.has_spoken else fruitless + 1
                pause_s = min(_LONGEST_PAUSE_S, 0.25 * 2**fruitless) * random.uniform(0.5, 1.0)  # noqa: S311
                _log.warning(
                    "websocket lost", reason=ended.reason(), connection=self.connections, again_in_s=round(pause_s, 2)
                )
                await asyncio.sleep(pause_s)
        finally:
            await self._end(life)

    async def _dial(self) -> _Life:
        """A new connection, alive."""
        await self._dials.spend(1)
        self.connections += 1
        return self._begin()

    def _begin(self) -> _Life:
        self._current = Connection(self._exchange, self._chunks, self._on_closed)
        self._open_times.append(self._current.open_time)
        return _Life(self._current, asyncio.create_task(self._current.live(self._silence_s)))

    async def _hand_over(self, old: _Life) -> _Life:
        """Let a new connection take over: the old one stays until klines come by the new one."""
        _log.info("websocket handed over", reason=old.connection.reason)
        await self._dials.spend(1)
        self.hand_overs += 1
        successor = self._begin()
        retiring = asyncio.create_task(self._retire(old))
        self._retiring.add(retiring)
        retiring.add_done_callback(self._retiring.discard)
        return successor

    async def _retire(self, old: _Life) -> None:
        """Close the old connection once the current one flows, or once it has ended by itself."""
        started_s = time.monotonic()
        try:
            while not old.living.done() and not self._taken_over(old.connection, time.monotonic() - started_s):
                await asyncio.wait({old.living}, timeout=max(self._clock.wall_s(1.0), 0.02))
        finally:
            await old.end()

    def _taken_over(self, old: Connection, waited_s: float) -> bool:
        current = self._current
        if current is None or current is old:
            return False
        waited_s /= self._clock.wall_s(1.0)
        return current.flows or (current.has_spoken and waited_s > _TAKING_OVER_S) or waited_s > _LONGEST_STAY_S

    async def _closed(self, connection: Connection) -> None:
        """Close what is no good any more, and learn from its silence."""
        self._current = None
        await connection.close()
        # A few thinly traded symbols are silent by themselves: then connecting again and again helps nobody.
        helped = connection.spoke_for_s > max(self._clock.wall_s(self._silence_s), LEAST_SILENCE_WALL_S)
        self._silence_s = _SILENCE_S if helped else min(2 * self._silence_s, _LONGEST_SILENCE_S)

    async def _end(self, life: _Life | None) -> None:
        for task in self._retiring:
            task.cancel()
        await asyncio.gather(*self._retiring, return_exceptions=True)
        if life is not None:
            await life.end()


def _covered_s(start_s: float, end_s: float, spans: Iterable[tuple[float, float]]) -> float:
    """How much of [start_s, end_s) the spans cover together; they may overlap, as in a hand-over."""
    covered_s, reached_s = 0.0, start_s
    for opened_s, ended_s in sorted(spans):
        covered_s += max(0.0, min(ended_s, end_s) - max(opened_s, reached_s))
        reached_s = max(reached_s, ended_s)
    return covered_s


def dial_budget(exchange: Exchange) -> WeightBudget:
    """How often this host may connect, counted by all its processes like request weight."""
    host = (exchange.url or BASE_URLS[exchange.market]).split("://")[-1]
    return WeightBudget(
        exchange.budget.path.parent, f"{host} {exchange.market} connections", _DIALS_PER_MINUTE, exchange.clock
    )
