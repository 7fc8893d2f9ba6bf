"""One WebSocket connection: subscribed, and watched until it is no good any more.

Lives here: the ccxt.pro class that keeps closed klines as the exchange sends them, SUBSCRIBE frames that the
exchange does not ignore, the watchdog for silence, and the end of a connection's life. Does not: connecting again
(stream_socket.py), storing, or fetching what was missed (stream.py, stragglers.py). Closed klines go out, one call of a
function each; what happens while no connection is open is not repeated by the exchange and has to be fetched.

Of ccxt we keep the connection and leave the candles: its own `handle_ohlcv` drops the closed flag, turns the strings into
floats, and keeps the last partial bar for ever when the connection breaks over the end of a minute.
"""

from __future__ import annotations

import asyncio
import json
import math
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache, partial
from typing import Any

from ohlcv_assets.clock import ExchangeClock, utc_now
from ohlcv_assets.exchange.binance import Exchange, ccxt_config
from ohlcv_assets.instruments import Symbol
from ohlcv_assets.logs import get_logger

#: The exchange ignores a longer frame without a word; so many symbols are safe at the usual length of their names.
CHUNK_SYMBOLS, FRAME_BYTES = 150, 3_900
#: The exchange takes five messages a second (spot).
_BETWEEN_FRAMES_S = 0.25
#: However fast the replay, a busy machine may be silent this long.
LEAST_SILENCE_WALL_S = 3.0
_CLOSING_S = 0.5
#: The exchange ends a connection after 24 hours of its clock.
LIFETIME_S = (23 * 60 + 50) * 60.0
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
        """Closed klines as they are, and when which symbol was last heard.

        Attributes:
            on_closed: called with every closed kline.
            on_shutdown: called when the exchange announces that it will close the connection.
            on_opened: called as soon as the connection is open.
            last_kline_s: monotonic time of the last kline event.
            heard_s: the same by the exchange's own name of the symbol.
        """

        on_closed: OnClosed | None = None
        on_shutdown: Callable[[], None] | None = None
        on_opened: Callable[[], None] | None = None
        last_kline_s: float = 0.0
        # What ccxt waits after closing, for TLS connections to end.
        timeout_on_exit = 50

        def __init__(self, config: dict[str, Any]) -> None:
            super().__init__(config)
            self.heard_s: dict[str, float] = {}

        def on_connected(self, client: Any, message: Any = None) -> None:
            """Tell that the connection is open: ccxt calls this as soon as it is."""
            if self.on_opened is not None:
                self.on_opened()
            super().on_connected(client, message)

        def handle_message(self, client: Any, message: Any) -> None:
            """Take klines by the shortest way (ccxt builds a table of 45 handlers for each message); never raise."""
            event = message.get("data", message) if isinstance(message, dict) else message
            kind = event.get("e") if isinstance(event, dict) else None
            if kind == "kline":
                self.last_kline_s = self.heard_s[str(event.get("s"))] = time.monotonic()
                self.handle_ohlcv(client, event)
                return
            if kind == "serverShutdown" and self.on_shutdown is not None:
                self.on_shutdown()
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


@dataclass
class OpenTime:
    """From when to when a connection was open, on the monotonic clock; outlives the connection."""

    began_s: float | None = None
    ended_s: float | None = None

    def begin(self) -> None:
        """It is open now; what opens beside it later does not make it younger."""
        if self.began_s is None:
            self.began_s = time.monotonic()

    def end(self) -> None:
        """It is open no more, from now on."""
        self.ended_s = time.monotonic()

    def until(self, now_s: float) -> tuple[float, float] | None:
        """Its beginning and its end, which is now while it is open; None if it never was."""
        return None if self.began_s is None else (self.began_s, now_s if self.ended_s is None else self.ended_s)


class Connection:
    """One connection to one market, from dialling to its end.

    Args:
        exchange: the opened market.
        chunks: the symbols, a SUBSCRIBE frame each.
        on_closed: called with every closed kline; must not raise.

    Attributes:
        leaving: set when the exchange will end the connection soon, or when something asks for another one in its place.
        reason: why it is leaving.
        subscribed_s: monotonic time of the last SUBSCRIBE frame; None before that.
        open_time: from when to when it was open.
    """

    def __init__(self, exchange: Exchange, chunks: Sequence[Sequence[Symbol]], on_closed: OnClosed) -> None:
        self.leaving = asyncio.Event()
        self.reason = ""
        self.subscribed_s: float | None = None
        self._clock: ExchangeClock = exchange.clock
        self._chunks = chunks
        self._ids = [{exchange.listing[symbol].exchange_id for symbol in chunk} for chunk in chunks]
        self._pro = closed_klines_class()(ccxt_config(exchange.market, exchange.url))
        self._pro.set_markets_from_exchange(exchange.client)
        self._pro.on_closed = on_closed
        self._pro.on_shutdown = partial(self.leave, "the exchange announces its end")
        self.open_time = OpenTime()
        self._pro.on_opened = self.open_time.begin
        self._connected_s = time.monotonic()

    @property
    def has_spoken(self) -> bool:
        """Whether a kline came since it was dialled."""
        return bool(self._pro.heard_s)

    @property
    def spoke_for_s(self) -> float:
        """Seconds from dialling to the last kline."""
        last_s: float = self._pro.last_kline_s
        return last_s - self._connected_s

    @property
    def flows(self) -> bool:
        """Whether every SUBSCRIBE frame brought klines."""
        return all(not ids.isdisjoint(self._pro.heard_s) for ids in self._ids)

    def heard_s(self, symbol_id: str) -> float:
        """Monotonic time of the symbol's last kline event; minus infinity if there was none."""
        last_s: float = self._pro.heard_s.get(symbol_id, -math.inf)
        return last_s

    def leave(self, reason: str) -> None:
        """Ask for another connection in place of this one, which stays until then."""
        self.reason = self.reason or reason
        self.leaving.set()

    async def live(self, silence_s: float) -> str:
        """Subscribe, and return why the connection is no good any more.

        Args:
            silence_s: so many exchange seconds without a kline end it.
        """
        # Silence is counted from here: a connection that never says anything is silent too.
        self._connected_s = self._pro.last_kline_s = time.monotonic()
        # The pauses are ours: ccxt's own grow to thirty seconds, and longer than our patience with silence.
        self._pro.ws_dial_backoff = {}
        watchers = [asyncio.create_task(self._subscribe(chunk, index)) for index, chunk in enumerate(self._chunks)]
        growing_old = asyncio.create_task(self._grow_old())
        tasks = [*watchers, asyncio.create_task(self._silence(silence_s))]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            return next(_reason(task) for task in done)
        finally:
            self.open_time.end()
            for task in (*tasks, growing_old):
                task.cancel()
            await asyncio.gather(*tasks, growing_old, return_exceptions=True)

    async def close(self) -> None:
        """End it; a silent peer is not waited for."""
        clients = list(self._pro.clients.values())
        self._pro.clients.clear()
        for client in clients:
            # An orderly close waits ten seconds for the peer's answer.
            with suppress(TimeoutError):
                await asyncio.wait_for(client.close(), _CLOSING_S)
        await self._pro.close()

    async def _subscribe(self, chunk: Sequence[Symbol], index: int) -> str:
        """Send one SUBSCRIBE and wait: nothing resolves it (see `handle_ohlcv`), only a broken connection ends it."""
        await asyncio.sleep(index * _BETWEEN_FRAMES_S)
        self.subscribed_s = time.monotonic()
        await self._pro.watch_ohlcv_for_symbols([[symbol, "1m"] for symbol in chunk])
        return "the subscription ended"

    async def _grow_old(self) -> None:
        await self._clock.sleep(LIFETIME_S)
        self.leave("it is nearly 24 hours old")

    async def _silence(self, silence_s: float) -> str:
        """Return when no kline has come for too long: a dead peer, a stalled one, or a route that only acknowledges."""
        limit_s = max(self._clock.wall_s(silence_s), LEAST_SILENCE_WALL_S)
        silent_s = 0.0
        while silent_s < limit_s:
            await asyncio.sleep(limit_s - silent_s)
            silent_s = time.monotonic() - self._pro.last_kline_s
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
