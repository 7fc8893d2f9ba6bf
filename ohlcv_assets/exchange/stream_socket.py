"""The WebSocket: subscribed, watched, and connected again for as long as it is wanted.

Lives here: the ccxt.pro class that keeps closed klines as the exchange sends them, SUBSCRIBE frames that the
exchange does not ignore, and the watchdog. Does not: storing, or fetching what was missed (stream.py, stragglers.py).
Closed klines go out, one call of a function each; whatever happens while the socket is down is not repeated by the
exchange and has to be fetched.

Of ccxt we keep the connection and leave the candles: its own `handle_ohlcv` drops the closed flag, turns the strings into
floats, and keeps the last partial bar for ever when the connection breaks over the end of a minute.
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import Any

from ohlcv_assets.clock import ExchangeClock, utc_now
from ohlcv_assets.exchange.binance import Exchange, ccxt_config
from ohlcv_assets.instruments import Symbol
from ohlcv_assets.logs import get_logger

#: The exchange ignores a longer frame without a word; so many symbols are safe at the usual length of their names.
CHUNK_SYMBOLS, FRAME_BYTES = 150, 3_900
#: Streams a connection; beyond 1,024 the exchange closes it.
CONNECTION_SYMBOLS = 1_000

#: The exchange takes five messages a second (spot).
_BETWEEN_FRAMES_S = 0.25
_SILENCE_S, _LONGEST_SILENCE_S = 10.0, 80.0
#: However fast the replay, a busy machine may be silent this long.
_LEAST_SILENCE_WALL_S = 3.0
_LONGEST_PAUSE_S = 10.0
_CLOSING_S = 0.5
_log = get_logger()


@dataclass(frozen=True)
class ClosedKline:
    """A closed kline as the exchange sent it.

    Attributes:
        symbol_id: the exchange's own name.
        kline: the event's `k` object, unchecked.
        received: when it entered this process, tz-aware UTC.
        received_monotonic_s: the same moment on the monotonic clock.
    """

    symbol_id: str
    kline: dict[str, Any]
    received: datetime
    received_monotonic_s: float


OnClosed = Callable[[ClosedKline], None]


@lru_cache(maxsize=1)
def closed_klines_class() -> type[Any]:
    """The Binance class of ccxt.pro, less its candles: it hands closed klines to `on_closed`, untouched."""
    import ccxt.pro

    class ClosedKlines(ccxt.pro.binance):  # type: ignore[misc]
        """Attributes: `on_closed(kline)` and `last_kline_s`, the monotonic time of the last kline event."""

        on_closed: OnClosed | None = None
        last_kline_s: float = 0.0
        # What ccxt waits after closing, for TLS connections to end.
        timeout_on_exit = 50

        def handle_message(self, client: Any, message: Any) -> None:
            """Take klines by the shortest way (ccxt builds a table of 45 handlers for each message); never raise."""
            event = message.get("data", message) if isinstance(message, dict) else message
            if isinstance(event, dict) and event.get("e") == "kline":
                self.last_kline_s = time.monotonic()
                self.handle_ohlcv(client, event)
                return
            try:
                super().handle_message(client, message)
            except Exception as error:  # noqa: BLE001  an error in here would end ccxt's receiving without a word
                _log.warning("a message that ccxt cannot take", error=repr(error), message=str(message)[:200])

        def handle_ohlcv(self, client: Any, message: Any) -> None:
            """Hand on a closed kline, and drop the others."""
            kline = message.get("k")
            if self.on_closed is None or not isinstance(kline, dict) or kline.get("x") is not True:
                return
            self.on_closed(ClosedKline(str(kline.get("s")), kline, utc_now(), time.monotonic()))

    return ClosedKlines


class Socket:
    """A WebSocket to one market that is connected again whenever it breaks or falls silent.

    Args:
        exchange: the opened market.
        symbols: at most `CONNECTION_SYMBOLS`.
        on_closed: called with every closed kline; must not raise.
    """

    def __init__(self, exchange: Exchange, symbols: Sequence[Symbol], on_closed: OnClosed) -> None:
        self.connections = 0
        self._clock: ExchangeClock = exchange.clock
        self._chunks = subscription_chunks(symbols, [exchange.listing[symbol].exchange_id for symbol in symbols])
        self._pro = closed_klines_class()(ccxt_config(exchange.market, exchange.url))
        self._pro.set_markets_from_exchange(exchange.client)
        self._pro.on_closed = on_closed
        self._silence_s = _SILENCE_S
        self._connected_s = 0.0

    async def run(self) -> None:
        """Stay connected until cancelled; then close everything."""
        fruitless = 0
        try:
            while True:
                reason = await self._connect_once()
                fruitless = 0 if self._pro.last_kline_s > self._connected_s else fruitless + 1
                pause_s = min(_LONGEST_PAUSE_S, 0.25 * 2**fruitless) * random.uniform(0.5, 1.0)  # noqa: S311
                _log.warning(
                    "websocket lost", reason=reason, connection=self.connections, again_in_s=round(pause_s, 2)
                )
                await asyncio.sleep(pause_s)
        finally:
            await self._pro.close()

    async def _connect_once(self) -> str:
        """Subscribe, and return why the connection is no good any more."""
        self.connections += 1
        # Silence is counted from here: a connection that never says anything is silent too.
        self._connected_s = self._pro.last_kline_s = time.monotonic()
        # The pauses are ours: ccxt's own grow to thirty seconds, and longer than our patience with silence.
        self._pro.ws_dial_backoff = {}
        watchers = [asyncio.create_task(self._subscribe(chunk, index)) for index, chunk in enumerate(self._chunks)]
        tasks = [*watchers, asyncio.create_task(self._silence())]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            return next(_reason(task) for task in done)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await self._hang_up()

    async def _subscribe(self, chunk: Sequence[Symbol], index: int) -> str:
        """Send one SUBSCRIBE and wait: nothing resolves it (see `handle_ohlcv`), only a broken connection ends it."""
        await asyncio.sleep(index * _BETWEEN_FRAMES_S)
        await self._pro.watch_ohlcv_for_symbols([[symbol, "1m"] for symbol in chunk])
        return "the subscription ended"

    async def _hang_up(self) -> None:
        """Forget ccxt's clients, so that the next subscription dials anew; a silent peer is not waited for."""
        clients = list(self._pro.clients.values())
        self._pro.clients.clear()
        for client in clients:
            # An orderly close waits ten seconds for the peer's answer.
            with suppress(TimeoutError):
                await asyncio.wait_for(client.close(), _CLOSING_S)

    async def _silence(self) -> str:
        """Return when no kline has come for too long: a dead peer, a stalled one, or a route that only acknowledges."""
        limit_s = max(self._clock.wall_s(self._silence_s), _LEAST_SILENCE_WALL_S)
        silent_s = 0.0
        while silent_s < limit_s:
            await asyncio.sleep(limit_s - silent_s)
            silent_s = time.monotonic() - self._pro.last_kline_s
        # A few thinly traded symbols are silent by themselves: then connecting again and again helps nobody.
        helped = self._pro.last_kline_s > self._connected_s + limit_s
        self._silence_s = _SILENCE_S if helped else min(2 * self._silence_s, _LONGEST_SILENCE_S)
        return f"no kline for {silent_s:.1f} s"


def subscription_chunks(symbols: Sequence[Symbol], exchange_ids: Sequence[str]) -> list[list[Symbol]]:
    """The symbols in chunks whose SUBSCRIBE frame the exchange will read: few enough, and short enough in bytes."""
    chunks: list[list[Symbol]] = []
    size = FRAME_BYTES
    for symbol, exchange_id in zip(symbols, exchange_ids, strict=True):
        # The most that the name can take: quotes, a comma, and six bytes for every letter beyond ASCII.
        name_bytes = len(json.dumps(f"{exchange_id.lower()}@kline_1m")) + 1
        if not chunks or len(chunks[-1]) == CHUNK_SYMBOLS or size + name_bytes > FRAME_BYTES:
            chunks.append([])
            size = len('{"method":"SUBSCRIBE","params":[],"id":1234567890}')
        chunks[-1].append(symbol)
        size += name_bytes
    return chunks


def _reason(task: asyncio.Task[str]) -> str:
    if task.cancelled():
        return "cancelled"
    error = task.exception()
    return task.result() if error is None else f"{type(error).__name__}: {str(error)[:200]}"
