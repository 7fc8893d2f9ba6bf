"""Paths that Binance does not have: what the replay exchange counted, and the speed of its clock. For tests.

Lives here: `GET /_replay/stats`, `GET /_replay/pages` and `POST /_replay/clock`. Does not: faults (faults/control.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from aiohttp import web

from ohlcv_assets.instruments import Market
from ohlcv_assets.replay.clock import ReplayClock
from ohlcv_assets.replay.rest import RestApi
from ohlcv_assets.replay.tape import MarketTape
from ohlcv_assets.replay.websocket import StreamApi

FASTEST = 600.0


class Control:
    """The control paths.

    Args:
        clock: the exchange's clock.
        rest: what counts the requests.
        streams: what holds the connections.
        tapes: the bars of each market.
    """

    def __init__(
        self, clock: ReplayClock, rest: RestApi, streams: StreamApi, tapes: Mapping[Market, MarketTape]
    ) -> None:
        self._clock = clock
        self._rest = rest
        self._streams = streams
        self._tapes = tapes

    def add_routes(self, app: web.Application) -> None:
        """Put the control paths into the application."""
        app.router.add_get("/_replay/stats", self._stats)
        app.router.add_get("/_replay/pages", self._pages)
        app.router.add_post("/_replay/clock", self._change_clock)

    async def _stats(self, _request: web.Request) -> web.Response:
        return web.json_response(self.stats())

    async def _pages(self, _request: web.Request) -> web.Response:
        """The klines that were asked for last: lists of market, symbol, startTime, endTime."""
        return web.json_response(list(self._rest.pages))

    async def _change_clock(self, request: web.Request) -> web.Response:
        """Change the speed: {"speed": 0 to 600}; 0 stands still."""
        try:
            speed = float((await request.json())["speed"])
        except (ValueError, KeyError, TypeError):
            speed = -1.0
        if not 0 <= speed <= FASTEST:
            return web.json_response({"error": f"send a JSON object with a speed of 0 to {FASTEST:g}"}, status=400)
        self._clock.change_speed(speed)
        return web.json_response(self._time())

    def stats(self) -> dict[str, Any]:
        """What was counted since the start, per market; weights by the minute's start in UNIX ms."""
        pools = self._rest.pools
        connections = self._streams.connections
        return {
            **self._time(),
            "data": {m: {"symbols": len(t.symbols), "start_ms": t.start_ms, "end_ms": t.end_ms} for m, t in self._tapes.items()},
            "connections": {m: sum(1 for market in connections.values() if market is m) for m in Market},
            "connections_opened": self._streams.opened,
            "subscriptions": {m: sum(len(c.streams) for c, market in connections.items() if market is m) for m in Market},
            "requests": {m: pool.requests for m, pool in pools.items()},
            "used_weight": {m: dict(pool.by_minute) for m, pool in pools.items()},
            "max_used_weight": {m: max(pool.by_minute.values(), default=0) for m, pool in pools.items()},
            "weight_limit": {m: pool.limit for m, pool in pools.items()},
            "refused": {str(status): sum(pool.refused[status] for pool in pools.values()) for status in (429, 418)},
        }  # fmt: skip

    def _time(self) -> dict[str, Any]:
        return {"clock_ms": self._clock.now_ms(), "speed": self._clock.speed}
