"""The past of delisted symbols: asked for as long as the exchange has it, and named with the proof when it has not."""

import json
import os
import subprocess
import sys
from datetime import date

import polars as pl
import pytest

from ohlcv_assets.bars import KEY, VALUES
from ohlcv_assets.capture import download_day
from ohlcv_assets.errors import UnknownSymbol
from ohlcv_assets.exchange.binance import open_exchange
from ohlcv_assets.exchange.fetch import fetch_bars
from ohlcv_assets.instruments import Market, Symbol, Universe, release_universe
from ohlcv_assets.listing_times import ListingTimes, Span
from ohlcv_assets.settings import Settings
from ohlcv_assets.storage.lake import Lake, Signature
from ohlcv_assets.timestamps import MINUTE_MS, Interval, parse_time
from ohlcv_assets_tests.unit.test_universes import universe_of

DAY = Interval.parse("2025-06-01", "2025-06-02")
END_MS = parse_time("2025-06-01T07:30Z")
NAMES = {Market.SPOT: ("BTC/USDT", "ETH/USDT"), Market.FUTURES: ("BTC/USDT:USDT", "ETH/USDT:USDT")}


def delisted(
    symbol: str, since_ms: int | None = DAY.start_ms, until_ms: int | None = END_MS
) -> dict[Symbol, ListingTimes]:
    """What a universe knows of a symbol that was delisted."""
    span = Span(since_ms, until_ms, "since first bar, until last bar")
    return {Symbol(symbol): ListingTimes(symbol.partition(":")[0].replace("/", ""), (span,))}


def replay_without(replay_factory, *, gone: bool, more=()):
    """A replay exchange on the day after BTC was delisted at half past seven."""
    replay = replay_factory(symbols=3, days=2, start="2025-06-02T12:00Z")
    replay.inject([{"fault": "delist_at", "symbols": ["BTCUSDT"], "from": "2025-06-01T07:30Z", "gone": gone}, *more])
    return replay


def truth_of(replay, market: Market, symbols) -> pl.DataFrame:
    """Key and values of the bars of the day as the exchange has them at last."""
    bars = replay.settled(market).filter(pl.col("symbol").is_in(symbols))
    inside = pl.col("timestamp").is_between(DAY.start_ms, DAY.end_ms, closed="left")
    return bars.filter(inside).select(*KEY, *VALUES).sort("symbol", "timestamp")


@pytest.mark.parametrize("gone", [False, True], ids=["still in exchangeInfo", "gone from exchangeInfo"])
@pytest.mark.parametrize("market", Market)
async def test_the_day_of_a_delisting_is_fetched_whole(replay_factory, market, gone):
    """Every bar up to the delisting comes, bit for bit, the other symbols' all day; the minutes after it are not listed."""
    replay, (name, other) = replay_without(replay_factory, gone=gone), NAMES[market]
    async with open_exchange(market, Settings(exchange_url=replay.url), delisted(name)) as exchange:
        fetched = await fetch_bars(exchange, [name, other], DAY)
    assert fetched.bars.select(*KEY, *VALUES).equals(truth_of(replay, market, [name, other]))
    assert fetched.missing.is_empty()
    assert fetched.not_listed.rows() == [(name, minute) for minute in range(END_MS, DAY.end_ms, MINUTE_MS)]
    assert not fetched.refused


async def test_without_a_universe_that_knows_it_a_vanished_symbol_is_unknown(replay_factory):
    """What neither the exchange nor a universe knows is one error, with the nearest names, before anything is asked."""
    replay = replay_without(replay_factory, gone=True)
    async with open_exchange(Market.SPOT, Settings(exchange_url=replay.url)) as exchange:
        before = exchange.usage.requests
        with pytest.raises(UnknownSymbol, match="BTC/USDT"):
            await fetch_bars(exchange, NAMES[Market.SPOT], DAY)
        assert exchange.usage.requests == before


async def test_futures_say_themselves_when_they_ended(replay_factory):
    """A settled contract that the exchange still lists has its end from there: no universe is needed."""
    replay, (name, other) = replay_without(replay_factory, gone=False), NAMES[Market.FUTURES]
    async with open_exchange(Market.FUTURES, Settings(exchange_url=replay.url)) as exchange:
        fetched = await fetch_bars(exchange, [name, other], DAY)
    assert fetched.missing.is_empty()
    assert fetched.not_listed.height == (DAY.end_ms - END_MS) // MINUTE_MS


async def test_an_exchange_that_has_no_bars_of_it_is_quoted(replay_factory):
    """Klines that are refused cost no other symbol its bars: the minutes are missing, with the exchange's own words."""
    refusal = {"fault": "rest_error_code", "symbols": ["BTCUSDT"], "code": -1121}
    replay, (name, other) = replay_without(replay_factory, gone=True, more=[refusal]), NAMES[Market.SPOT]
    async with open_exchange(Market.SPOT, Settings(exchange_url=replay.url), delisted(name)) as exchange:
        fetched = await fetch_bars(exchange, [name, other], DAY)
    assert fetched.bars.select(*KEY, *VALUES).equals(truth_of(replay, Market.SPOT, [other]))
    assert fetched.missing.rows() == [(name, minute) for minute in range(DAY.start_ms, END_MS, MINUTE_MS)]
    assert fetched.not_listed.rows() == [(name, minute) for minute in range(END_MS, DAY.end_ms, MINUTE_MS)]
    assert list(fetched.refused) == [name]
    assert "-1121" in fetched.refused[name]


async def test_a_listed_symbol_that_is_refused_fails_the_fetch(replay_factory):
    """A refusal is taken for an answer only when the exchange does not list the symbol: otherwise one of the two is wrong."""
    replay = replay_factory(symbols=2, start="2025-06-01T12:00Z")
    replay.inject([{"fault": "rest_error_code", "symbols": ["BTCUSDT"], "code": -1121}])
    times = delisted("BTC/USDT", until_ms=None)
    async with open_exchange(Market.SPOT, Settings(exchange_url=replay.url), times) as exchange:
        with pytest.raises(UnknownSymbol, match="1121"):
            await fetch_bars(exchange, NAMES[Market.SPOT], Interval(DAY.start_ms, END_MS))


async def test_a_minute_that_is_lost_within_the_listing_is_missing(replay_factory):
    """What lacks before the delisting is no consequence of it, and is named missing."""
    replay = replay_without(replay_factory, gone=True)
    later = delisted("BTC/USDT", until_ms=END_MS + 5 * MINUTE_MS)
    async with open_exchange(Market.SPOT, Settings(exchange_url=replay.url), later) as exchange:
        fetched = await fetch_bars(exchange, ["BTC/USDT"], DAY)
    assert fetched.missing["timestamp"].to_list() == list(range(END_MS, END_MS + 5 * MINUTE_MS, MINUTE_MS))


async def test_a_first_bar_that_a_universe_knows_spares_questions(replay_factory):
    """Minutes before a symbol's first bar are not listed and not asked for, on spot as well."""
    replay = replay_factory(symbols=2, start="2025-06-01T12:00Z")
    replay.inject([{"fault": "list_at", "symbols": ["BTCUSDT"], "from": "2025-06-01T07:30Z"}])
    times = delisted("BTC/USDT", since_ms=END_MS, until_ms=None)
    interval = Interval(DAY.start_ms, END_MS)
    async with open_exchange(Market.SPOT, Settings(exchange_url=replay.url), times) as exchange:
        fetched = await fetch_bars(exchange, ["BTC/USDT"], interval)
    assert fetched.requests == 0
    assert fetched.not_listed["timestamp"].to_list() == list(interval.minutes)


async def test_a_day_of_the_lake_has_the_delisted_symbol(replay_factory, tmp_path):
    """The daily file of the day of a delisting holds the bars that there were."""
    replay, (name, other) = replay_without(replay_factory, gone=True), NAMES[Market.SPOT]
    lake, signature = Lake(str(tmp_path)), Signature.daily(Market.SPOT, universe_of())
    day = date(2025, 6, 1)
    async with open_exchange(Market.SPOT, Settings(exchange_url=replay.url), delisted(name)) as exchange:
        await download_day(exchange, lake, signature, [Symbol(name), Symbol(other)], day)
    held = lake.read_day(signature, day)
    assert held.select(*KEY, *VALUES).sort("symbol", "timestamp").equals(truth_of(replay, Market.SPOT, [name, other]))


def test_a_stream_of_now_leaves_out_what_was_delisted(replay_factory, database_url, tmp_path):
    """`ohlcv stream` of a universe with a symbol that is gone captures the others, and nothing is called missing."""
    replay = replay_factory(symbols=2, days=1, start="2025-06-01T12:00Z", speed=60.0)
    replay.inject([{"fault": "delist_at", "symbols": ["BTCUSDT"], "from": "2025-06-01T07:30Z", "gone": True}])
    universe = Universe.of("v1.0", {Market.SPOT: list(NAMES[Market.SPOT])}, listings=delisted("BTC/USDT"))
    release_universe(universe, tmp_path)
    settings = Settings(home=tmp_path, database_url=database_url, universes=tmp_path, universe="v1.0", exchange_url=replay.url)  # fmt: skip
    command = [sys.executable, "-m", "ohlcv_assets.cli", "stream", "--market", "spot", "--hours", "0.05", "--json"]
    ended = subprocess.run(
        command, env=os.environ | settings.environment(), capture_output=True, text=True, timeout=60, check=False
    )
    events = [json.loads(line) for line in ended.stdout.splitlines()]
    assert (ended.returncode, ended.stderr) == (0, "")
    assert events[0]["symbols"] == ["ETH/USDT"]
