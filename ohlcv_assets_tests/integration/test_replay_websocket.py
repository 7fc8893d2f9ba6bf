"""The replay exchange over plain WebSockets: events, subscriptions and silences, as Binance has them.

Lives here: what a connection hears, with raw aiohttp as the client. Does not: malformed requests, limits and ends
(test_replay_websocket_limits.py).
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

import aiohttp
import polars as pl
import pytest

from ohlcv_assets.instruments import Market
from ohlcv_assets.replay.partial import Kline
from ohlcv_assets.replay.script import Answer, RestFault, Script
from ohlcv_assets.replay.truth import exchange_symbol
from ohlcv_assets.timestamps import MINUTE_MS
from ohlcv_assets_tests.integration.websocket_client import (
    BOTH,
    COMBINED,
    END_MS,
    NOON_MS,
    RAW,
    STREAMS,
    TRUTH,
    ask,
    connected,
    exchange,
    final_bars,
    receive,
    values_of,
)


@BOTH
async def test_every_minute_closes_once_after_its_end(market: Market) -> None:
    """Each bar's events lead up to exactly one with x:true, sent after the bar's end, equal to the truth."""
    truth, closed = final_bars(market), dict[tuple[str, int], int]()
    async with exchange() as (url, replay), connected(url, RAW[market]) as socket:
        await ask(socket, "SUBSCRIBE", STREAMS[market])
        replay.clock.change_speed(120)
        while max((start_ms for _, start_ms in closed), default=0) < END_MS:
            event = await receive(socket)
            k = event["k"]
            key = (event["s"], k["t"])
            assert key not in closed, "an event of a bar after its last"
            assert k["T"] == k["t"] + MINUTE_MS - 1
            if k["x"]:
                assert event["E"] > k["T"]
                assert values_of(k) == truth[key]
                closed[key] = event["E"]
            else:
                assert k["t"] <= event["E"] <= k["T"]
                assert float(k["v"]) <= truth[key][4]
    due = {key for key in truth if NOON_MS <= key[1] < END_MS}
    silent = {key for key in due if truth[key][6] == 0} if market is Market.FUTURES else set()
    assert due - silent <= closed.keys()
    assert not silent & closed.keys()


async def test_a_minute_without_a_trade_is_silent_on_futures_only() -> None:
    """Nobody trades: spot sends a flat bar with trade ids of -1, futures nothing at all, and REST has both."""
    market_bars = {m: TRUTH[m].filter(pl.col("trade_count") == 0) for m in Market}
    for market, idle in market_bars.items():
        symbol, start_ms = (
            idle.filter(pl.col("timestamp") % (10 * MINUTE_MS) != 0).select("symbol", "timestamp").row(0)
        )
        name = exchange_symbol(symbol)
        async with exchange(start_ms=start_ms) as (url, replay):
            async with connected(url, f"{RAW[market]}/{name.lower()}@kline_1m") as socket:
                await ask(socket, "LIST_SUBSCRIPTIONS")
                replay.clock.change_speed(60)
                event = await receive(socket)
                while market is Market.SPOT and not event["k"]["x"]:
                    event = await receive(socket)
            k = event["k"]
            if market is Market.SPOT:
                assert (k["t"], k["x"], k["n"], k["f"], k["L"]) == (start_ms, True, 0, -1, -1)
            else:
                assert k["t"] > start_ms
            prefix = "/api/v3" if market is Market.SPOT else "/fapi/v1"
            asked = {"symbol": name, "interval": "1m", "startTime": start_ms, "limit": 1}
            async with (
                aiohttp.ClientSession() as session,
                session.get(f"{url}{prefix}/klines", params=asked) as answer,
            ):
                assert [(row[0], row[8]) for row in await answer.json()] == [(start_ms, 0)]


@BOTH
@pytest.mark.parametrize("form", ["raw", "combined"])
async def test_streams_named_in_the_url_are_subscribed(market: Market, form: str) -> None:
    """A URL can name its streams; a combined one wraps each event with its stream's name."""
    path = (
        f"{RAW[market]}/{'/'.join(STREAMS[market])}"
        if form == "raw"
        else f"{COMBINED[market]}?streams={'/'.join(STREAMS[market])}"
    )
    async with exchange() as (url, _), connected(url, path) as socket:
        assert set((await ask(socket, "LIST_SUBSCRIPTIONS"))["result"]) == set(STREAMS[market])
        message = await receive(socket)
    if form == "raw":
        assert message["e"] == "kline"
    else:
        assert message.keys() == {"stream", "data"}
        assert message["stream"] == f"{message['data']['s'].lower()}@kline_1m"


@pytest.mark.parametrize(
    ("path", "form"),
    [
        ("/ws/7", "raw"),
        ("/stream/ws", "raw"),
        ("/stream/ws/0", "raw"),
        ("/fstream/market/ws/0", "raw"),
        ("/stream/stream?streams=btcusdt@kline_1m", "combined"),
        ("/fstream/market/stream?streams=btcusdt@kline_1m", "combined"),
    ],
)
async def test_every_documented_path_carries_klines(path: str, form: str) -> None:
    """Paths with a client's counter, and ccxt's own forms, carry events in the form that the path stands for."""
    async with exchange(speed=60) as (url, _), connected(url, path) as socket:
        await ask(socket, "SUBSCRIBE", ["btcusdt@kline_1m"])
        message = await receive(socket)
        assert ("data" in message) == (form == "combined")
        assert message.get("data", message)["s"] == "BTCUSDT"


@pytest.mark.parametrize(
    ("path", "stream"),
    [
        ("/fstream/ws", "btcusdt@kline_1m"),
        ("/fstream/stream", "btcusdt@kline_1m"),
        ("/fstream/public/ws", "btcusdt@kline_1m"),
        ("/dstream/ws", "btcusdt@kline_1m"),
        ("/fstream/market/ws", "BTCUSDT@kline_1m"),
        ("/fstream/market/ws", "nosuchusdt@kline_1m"),
        ("/fstream/market/ws", "btcusdt@kline_7m"),
        ("/stream/ws", "BTCUSDT@kline_1m"),
    ],
)
async def test_an_ack_proves_nothing(path: str, stream: str) -> None:
    """A wrong route, an upper-case or unknown stream is acked and listed, and minutes later still silent."""
    async with exchange(speed=600) as (url, replay), connected(url, path) as socket:
        assert await ask(socket, "SUBSCRIBE", [stream]) == {"result": None, "id": 1}
        await asyncio.sleep(replay.clock.wall_s(5 * MINUTE_MS))
        assert await ask(socket, "LIST_SUBSCRIPTIONS", request_id=2) == {"result": [stream], "id": 2}


async def test_unsubscribed_streams_fall_silent() -> None:
    """After UNSUBSCRIBE no event of that stream comes; the others go on."""
    kept, dropped = STREAMS[Market.SPOT][:2]
    async with exchange(speed=60) as (url, _), connected(url, "/stream") as socket:
        await ask(socket, "SUBSCRIBE", [kept, dropped])
        assert await ask(socket, "UNSUBSCRIBE", [dropped, "never@kline_1m"], request_id=2) == {
            "result": None,
            "id": 2,
        }
        assert (await ask(socket, "LIST_SUBSCRIPTIONS", request_id=3))["result"] == [kept]
        assert {(await receive(socket))["stream"] for _ in range(8)} == {kept}


async def test_two_connections_hear_the_same() -> None:
    """Every listener of a stream gets every closing event, with the same time and values."""
    async with exchange() as (url, replay), connected(url, "/ws") as one, connected(url, "/stream") as two:
        heard = []
        for socket in (one, two):
            await ask(socket, "SUBSCRIBE", [STREAMS[Market.SPOT][0]])
        replay.clock.change_speed(60)
        for socket in (one, two):
            closed = []
            while len(closed) < 2:
                event = await receive(socket)
                event = event.get("data", event)
                closed += [event] if event["k"]["x"] else []
            heard.append(closed)
    assert heard[0] == heard[1]


async def test_a_script_decides_which_bars_close() -> None:
    """A bar that the script never closes has no x:true; one that it closes late and twice comes so, values unchanged."""

    class Faulty(Script):
        def close_lags_ms(self, market: Market, symbol: str, timestamp_ms: int) -> Sequence[float]:
            return () if timestamp_ms % (2 * MINUTE_MS) else (30_000.0, 31_000.0)

    truth = final_bars(Market.SPOT)
    async with exchange(script=Faulty(0)) as (url, replay), connected(url, "/ws") as socket:
        await ask(socket, "SUBSCRIBE", [STREAMS[Market.SPOT][0]])
        replay.clock.change_speed(120)
        closed = []
        while len(closed) < 4:
            event = await receive(socket)
            closed += [event] if event["k"]["x"] else []
    assert [event["k"]["t"] - NOON_MS for event in closed] == [0, 0, 2 * MINUTE_MS, 2 * MINUTE_MS]
    assert all(event["E"] >= event["k"]["T"] + 30_000 for event in closed)
    assert all(values_of(event["k"]) == truth[event["s"], event["k"]["t"]] for event in closed)


async def test_a_script_decides_what_rest_shows() -> None:
    """REST can show a bar otherwise than the truth, leave one out, and answer with any status instead."""

    class Faulty(Script):
        def rest_bars(
            self, market: Market, symbol: str, first_ms: int, last_ms: int, now_ms: int
        ) -> Mapping[int, Kline | None]:
            return {first_ms: None, last_ms: Kline(last_ms, 1.0, 1.0, 1.0, 1.0, 2.0, 2.0, 1, 0.0, 0.0, 1)}

        def rest_fault(
            self, market: Market | None, endpoint: str, parameters: Mapping[str, str], now_ms: int
        ) -> RestFault | None:
            async def refuse(*_: Any) -> Answer:
                return Answer(503, b"<html>", {"Retry-After": "3"})

            return refuse if endpoint == "time" else None

    asked = {"symbol": "BTCUSDT", "interval": "1m", "startTime": NOON_MS - 4 * MINUTE_MS, "limit": 4}
    async with exchange(script=Faulty(0)) as (url, _), aiohttp.ClientSession() as session:
        async with session.get(f"{url}/api/v3/klines", params=asked) as answer:
            rows = await answer.json()
        async with session.get(f"{url}/fapi/v1/time") as answer:
            assert (answer.status, await answer.text(), answer.headers["Retry-After"]) == (503, "<html>", "3")
            assert answer.headers["X-MBX-USED-WEIGHT-1M"] == "1"
    assert [row[0] - NOON_MS for row in rows] == [-3 * MINUTE_MS, -2 * MINUTE_MS, -MINUTE_MS]
    assert float(rows[0][5]) != 2.0
    assert float(rows[-1][5]) == 2.0


async def test_stats_count_connections_and_subscriptions() -> None:
    """The counters show what is connected and subscribed now, and nothing after the client has gone."""
    async with exchange() as (url, replay):
        async with connected(url, "/ws") as socket:
            await ask(socket, "SUBSCRIBE", STREAMS[Market.SPOT])
            stats = replay.control.stats()
            assert stats["connections"] == {"spot": 1, "futures": 0}
            assert stats["subscriptions"] == {"spot": 5, "futures": 0}
        while replay.control.stats()["connections"]["spot"]:  # noqa: ASYNC110 - the server says so by its counters only
            await asyncio.sleep(0.01)
        assert replay.control.stats()["subscriptions"] == {"spot": 0, "futures": 0}
