"""Stock ccxt, sync, async and pro, against the replay exchange: pointed at it by configuration only, no class of ours.

Lives here: the configuration that points ccxt at a local exchange, and what a person who uses ccxt would do with it.
Does not: our own capture code, which is tested beside its own modules.
"""

from __future__ import annotations

import asyncio
from typing import Any

import ccxt
import ccxt.async_support
import ccxt.pro
import polars as pl
import pytest

from ohlcv_assets.instruments import Market
from ohlcv_assets.timestamps import MINUTE_MS, parse_time
from ohlcv_assets_tests.fixtures.replay import ReplayFactory, ReplayHandle

NOON_MS = parse_time("2025-06-01T12:00Z")
BOTH = pytest.mark.parametrize("market", list(Market))
TYPES = {Market.SPOT: "spot", Market.FUTURES: "linear"}


def ccxt_config(url: str, *types: str) -> dict[str, Any]:
    """The whole of what stock ccxt needs to take a local exchange for Binance."""
    ws = url.replace("http", "ws", 1)
    rest_paths = {
        "public": "/api/v3", "private": "/api/v3", "v1": "/api/v1",
        "fapiPublic": "/fapi/v1", "fapiPublicV2": "/fapi/v2", "fapiPublicV3": "/fapi/v3", "fapiPrivate": "/fapi/v1",
        "dapiPublic": "/dapi/v1", "dapiPrivate": "/dapi/v1",
    }  # fmt: skip
    streams = {"spot": f"{ws}/stream/ws", "linear": f"{ws}/fstream/ws", "inverse": f"{ws}/dstream/ws"}
    options = {"fetchCurrencies": False, "fetchMargins": False}
    if types:
        options["fetchMarkets"] = {"types": list(types)}
    return {
        "urls": {"api": {name: url + path for name, path in rest_paths.items()} | {"ws": streams}},
        "options": options,
    }


def rows_of(bars: pl.DataFrame, symbol: str, from_ms: int, count: int) -> list[list[float]]:
    """What ccxt must return for bars of the truth: [timestamp, open, high, low, close, volume]."""
    chosen = bars.filter((pl.col("symbol") == symbol) & (pl.col("timestamp") >= from_ms)).head(count)
    return [list(row) for row in chosen.select("timestamp", "open", "high", "low", "close", "volume").rows()]


def symbols_of(bars: pl.DataFrame) -> list[str]:
    return bars["symbol"].unique().sort().to_list()


def test_sync_ccxt_lists_what_the_exchange_lists(replay_exchange: ReplayHandle) -> None:
    """load_markets with its default of all three venues gives exactly the truth's unified symbols, all active."""
    markets = ccxt.binance(ccxt_config(replay_exchange.url)).load_markets()
    expected = {symbol for market in Market for symbol in symbols_of(replay_exchange.truth(market))}
    assert set(markets) == expected
    assert all(entry["active"] for entry in markets.values())
    assert markets["BTC/USDT"]["precision"] == {"amount": 1e-05, "price": 0.01, "base": 1e-08, "quote": 1e-08}
    assert markets["BTC/USDT:USDT"]["linear"]
    assert markets["BTC/USDT:USDT"]["created"] == parse_time("2025-06-01")


@BOTH
def test_sync_ccxt_fetches_the_bars_that_are(replay_exchange: ReplayHandle, market: Market) -> None:
    """fetch_ohlcv since a time gives the truth's bars, bit for bit."""
    client = ccxt.binance(ccxt_config(replay_exchange.url, TYPES[market]))
    truth, since_ms = replay_exchange.truth(market), NOON_MS - 600 * MINUTE_MS
    for symbol in symbols_of(truth):
        assert client.fetch_ohlcv(symbol, "1m", since=since_ms, limit=499) == rows_of(truth, symbol, since_ms, 499)


@BOTH
async def test_async_ccxt_fetches_the_unfinished_bar_last(replay_exchange: ReplayHandle, market: Market) -> None:
    """fetch_ohlcv without a time gives the latest bars, all final but the last."""
    async with ccxt.async_support.binance(ccxt_config(replay_exchange.url, TYPES[market])) as client:
        for symbol in symbols_of(replay_exchange.truth(market)):
            bars = await client.fetch_ohlcv(symbol, "1m", limit=5)
            final = rows_of(replay_exchange.truth(market), symbol, bars[0][0], 5)
            assert bars[:-1] == final[:-1]
            assert bars[-1][0] == final[-1][0]
            assert bars[-1][5] <= final[-1][5]


@BOTH
async def test_ccxt_pro_watches_one_symbol(replay_factory: ReplayFactory, market: Market) -> None:
    """watch_ohlcv shows each bar grow to exactly its final values; the row before the last is a closed one."""
    replay = replay_factory(symbols=1, speed=60, start="2025-06-01T12:00Z")
    (symbol,) = symbols_of(replay.truth(market))
    closed: dict[int, list[float]] = {}
    async with ccxt.pro.binance(ccxt_config(replay.url, TYPES[market])) as client:
        while len(closed) < 2:
            await asyncio.wait_for(client.watch_ohlcv(symbol, "1m"), 30)
            closed |= {row[0]: list(row) for row in client.ohlcvs[symbol]["1m"][:-1]}
    for start_ms, row in closed.items():
        assert [row] == rows_of(replay.truth(market), symbol, start_ms, 1)


@BOTH
async def test_ccxt_pro_watches_many_symbols(replay_factory: ReplayFactory, market: Market) -> None:
    """watch_ohlcv_for_symbols delivers every symbol of one subscription; its cache ends at the final values."""
    replay = replay_factory(symbols=4, speed=60, start="2025-06-01T12:00Z")
    truth, closed = replay.truth(market), dict[tuple[str, int], list[float]]()
    symbols = symbols_of(truth)
    async with ccxt.pro.binance(ccxt_config(replay.url, TYPES[market])) as client:
        while len({symbol for symbol, _ in closed}) < len(symbols):
            await asyncio.wait_for(client.watch_ohlcv_for_symbols([[symbol, "1m"] for symbol in symbols]), 30)
            for symbol, frames in client.ohlcvs.items():
                closed |= {(symbol, row[0]): list(row) for row in frames["1m"][:-1]}
    for (symbol, start_ms), row in closed.items():
        assert [row] == rows_of(truth, symbol, start_ms, 1)


def test_ccxt_names_the_errors_it_knows(replay_exchange: ReplayHandle) -> None:
    """An unknown symbol, an unknown interval and a limit too large arrive as ccxt's own error classes."""
    client = ccxt.binance(ccxt_config(replay_exchange.url, "linear"))
    asked = {"symbol": "BTCUSDT", "interval": "1m"}
    with pytest.raises(ccxt.BadSymbol):
        client.fapiPublicGetKlines(asked | {"symbol": "NOSUCHUSDT"})
    with pytest.raises(ccxt.BadRequest):
        client.fapiPublicGetKlines(asked | {"limit": 1501})
    with pytest.raises(ccxt.BadRequest):
        client.fapiPublicGetKlines(asked | {"interval": "7m"})


def test_ccxt_takes_429_for_ddos_protection(replay_factory: ReplayFactory) -> None:
    """Beyond the minute's weight ccxt raises what it raises for Binance's 429."""
    replay = replay_factory(symbols=1)
    client = ccxt.binance(ccxt_config(replay.url, "linear") | {"enableRateLimit": False})
    asked = {"symbol": "BTCUSDT", "interval": "1m", "limit": 1500}
    for _ in range(240):
        client.fapiPublicGetKlines(asked)
    with pytest.raises(ccxt.DDoSProtection):
        client.fapiPublicGetKlines(asked)


@pytest.mark.real_data
async def test_stock_ccxt_on_a_recorded_day(replay_factory: ReplayFactory, recorded_data) -> None:
    """A recorded file is listed under ccxt's own unified symbols and fetched bit for bit."""
    file = recorded_data / "klines" / "um_rest_1m_2025-05-25_2025-06-03_A.parquet"
    replay = replay_factory(data=file, market=Market.FUTURES, start="2025-06-02T00:00Z")
    truth, since_ms = replay.truth(Market.FUTURES), parse_time("2025-06-01")
    async with ccxt.async_support.binance(ccxt_config(replay.url)) as client:
        assert sorted(await client.load_markets()) == symbols_of(truth)
        for symbol in symbols_of(truth):
            fetched = await client.fetch_ohlcv(symbol, "1m", since=since_ms, limit=499)
            assert fetched == rows_of(truth, symbol, since_ms, 499)


@pytest.mark.real_data
def test_stock_ccxt_names_recorded_spot_symbols_as_we_do(replay_factory: ReplayFactory, recorded_data) -> None:
    """The unified symbols that we make of BTCUSDT and AAVEBTC are those that ccxt makes of the listing."""
    file = recorded_data / "klines" / "spot_rest_1m_40sym_2021-04-20_2021-04-25.parquet"
    replay = replay_factory(data=file, market=Market.SPOT)
    markets = ccxt.binance(ccxt_config(replay.url)).load_markets()
    assert sorted(markets) == symbols_of(replay.truth(Market.SPOT))
