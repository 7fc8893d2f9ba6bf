"""A replay exchange in the test's own event loop, and a raw WebSocket client of it.

Lives here: what the tests of the exchange's WebSockets share. Does not: any test.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import date
from typing import Any

import aiohttp
import pytest
from aiohttp import ClientWebSocketResponse, WSMsgType

from ohlcv_assets.bars import VALUES
from ohlcv_assets.instruments import Market
from ohlcv_assets.replay.server import ReplayExchange
from ohlcv_assets.replay.truth import exchange_symbol, generate_truth
from ohlcv_assets.timestamps import parse_time

DAY = date(2025, 6, 1)
TRUTH = generate_truth(symbols=5, days=1, seed=7, first_day=DAY)
SYMBOLS = {market: frame["symbol"].unique().sort().to_list() for market, frame in TRUTH.items()}
STREAMS = {market: [f"{exchange_symbol(s).lower()}@kline_1m" for s in names] for market, names in SYMBOLS.items()}
RAW = {Market.SPOT: "/ws", Market.FUTURES: "/fstream/market/ws"}
COMBINED = {Market.SPOT: "/stream", Market.FUTURES: "/fstream/market/stream"}
BOTH = pytest.mark.parametrize("market", list(Market))

NOON_MS, END_MS = parse_time("2025-06-01T12:00Z"), parse_time("2025-06-01T12:03Z")
PATIENCE_S = 20


@asynccontextmanager
async def exchange(
    speed: float = 1, start_ms: int = NOON_MS, **options: Any
) -> AsyncIterator[tuple[str, ReplayExchange]]:
    """An exchange in this event loop. A test that must not miss a minute begins at 1x, subscribes, then speeds it up."""
    replay = ReplayExchange(TRUTH, start_ms=start_ms, speed=speed, **options)
    listening = await replay.listen("127.0.0.1", 0)
    try:
        yield listening.url, replay
    finally:
        await replay.close()


@asynccontextmanager
async def connected(url: str, path: str) -> AsyncIterator[ClientWebSocketResponse]:
    async with aiohttp.ClientSession() as session, session.ws_connect(url + path, max_msg_size=0) as socket:
        yield socket


async def receive(socket: ClientWebSocketResponse) -> dict[str, Any]:
    """The next message, parsed."""
    return json.loads(await socket.receive_str(timeout=PATIENCE_S))


async def ask(
    socket: ClientWebSocketResponse, method: str, params: Any = None, request_id: Any = 1
) -> dict[str, Any]:
    """Send a request; its answer, events before it left out."""
    await socket.send_json({"method": method, "id": request_id} | ({} if params is None else {"params": params}))
    while True:
        message = await receive(socket)
        if message.get("id") == request_id:
            return message


async def closing(socket: ClientWebSocketResponse) -> tuple[int | None, list[dict[str, Any]]]:
    """The code that the server closes with, and what it said before."""
    said = []
    while (message := await socket.receive(timeout=PATIENCE_S)).type is WSMsgType.TEXT:
        said.append(json.loads(message.data))
    return socket.close_code, said


def values_of(k: dict[str, Any]) -> tuple[float, ...]:
    """The nine values of an event, in the bar's order."""
    return (*(float(k[name]) for name in "ohlcvq"), k["n"], float(k["V"]), float(k["Q"]))


def final_bars(market: Market) -> dict[tuple[str, int], tuple[float, ...]]:
    rows = TRUTH[market].select("symbol", "timestamp", *VALUES).iter_rows()
    return {(exchange_symbol(symbol), start_ms): tuple(values) for symbol, start_ms, *values in rows}
