"""A symbol of the universe that the exchange lists no more, and that no universe knows as delisted: it costs the others nothing."""

import json
import os
import subprocess
import sys
from datetime import date

import polars as pl
import pytest

from ohlcv_assets.bars import KEY, VALUES, Channel
from ohlcv_assets.capture import download_day
from ohlcv_assets.errors import UnknownSymbol
from ohlcv_assets.exchange.binance import open_exchange
from ohlcv_assets.exchange.listing import likely_name
from ohlcv_assets.instruments import Market, Symbol, Universe, release_universe
from ohlcv_assets.listing_times import ListingTimes, Span
from ohlcv_assets.settings import Settings
from ohlcv_assets.storage.database import Database
from ohlcv_assets.storage.lake import Lake, Signature
from ohlcv_assets.timestamps import Interval, parse_time

VANISHED_AT = "2025-06-01T07:30Z"
SYMBOLS = {Market.SPOT: ["BTC/USDT", "ETH/USDT", "SOL/USDT"], Market.FUTURES: ["BTC/USDT:USDT", "ETH/USDT:USDT", "SOL/USDT:USDT"]}  # fmt: skip


def universe_with(times: bool) -> Universe:
    """Three symbols a market; their listing times are unknown, or known from before BTC vanished."""
    since = {name: listed(name, parse_time("2025-05-01")) for names in SYMBOLS.values() for name in names}
    return Universe.of("v1.0", SYMBOLS, listings=since if times else None)


def vanished(replay_factory, start: str, speed: float = 1.0, more=()):
    """A replay exchange that does not list BTC any more."""
    replay = replay_factory(symbols=3, days=2, start=start, speed=speed)
    replay.inject([{"fault": "delist_at", "symbols": ["BTCUSDT"], "from": VANISHED_AT, "gone": True}, *more])
    return replay


@pytest.mark.parametrize(("market", "times"), [(Market.SPOT, False), (Market.FUTURES, True)])
def test_the_stream_goes_on_with_the_others(replay_factory, database_url, tmp_path, market, times):
    """Every bar of the other symbols comes by WebSocket; the vanished one's minutes are named missing, and that is exit code 1."""
    replay = vanished(replay_factory, "2025-06-01T12:00Z", speed=60.0)
    release_universe(universe_with(times), tmp_path)
    settings = Settings(
        home=tmp_path, database_url=database_url, universes=tmp_path, universe="v1.0", exchange_url=replay.url
    )
    command = [sys.executable, "-m", "ohlcv_assets.cli", "stream", "--market", market.value, "--hours", "0.05", "--json"]  # fmt: skip
    ended = subprocess.run(
        command, env=os.environ | settings.environment(), capture_output=True, text=True, timeout=90, check=False
    )
    report = json.loads(ended.stdout.splitlines()[-1])
    gone, *others = SYMBOLS[market]
    assert ended.returncode == 1, ended.stderr
    with Database.open(settings) as database:
        held = database.read(market, Interval.parse("2025-06-01T12:00Z", "2025-06-01T13:00Z"))
    assert set(held["symbol"]) == set(others)
    assert report["bars_missing"] == report["bars_expected"] / 3
    # The first minute runs already; and futures send no event of a minute without a trade.
    streamed = held.filter(pl.col("channel") == Channel.WEBSOCKET)
    assert set(streamed["symbol"]) == set(others)
    assert report["reconnects"] == 0
    assert gone in ended.stdout


@pytest.mark.parametrize("market", Market)
async def test_its_past_is_had_and_its_absence_named(replay_factory, tmp_path, market):
    """The day of the vanishing is downloaded whole: its bars up to then, and why there are none after it."""
    replay = vanished(replay_factory, "2025-06-02T12:00Z")
    universe, day = universe_with(times=False), date(2025, 6, 1)
    lake, signature = Lake(str(tmp_path)), Signature.daily(market, universe)
    settings = Settings(exchange_url=replay.url)
    async with open_exchange(market, settings, universe.listings, universe.symbols[market]) as exchange:
        kept = await download_day(exchange, lake, signature, universe.symbols[market], day)
    held = lake.read_day(signature, day)
    truth = replay.settled(market).filter(pl.col("timestamp").is_in(list(Interval.of_day(day).minutes)))
    assert held.select(*KEY, *VALUES).equals(truth.select(*KEY, *VALUES).sort("symbol", "timestamp"))
    assert set(kept.fetched.missing["symbol"]) | set(kept.fetched.not_listed["symbol"]) == {SYMBOLS[market][0]}


async def test_a_universe_of_another_exchange_is_refused(replay_factory):
    """When most of the symbols are not listed, it is the wrong universe or the wrong exchange: one error, before anything is asked."""
    replay = replay_factory(symbols=2, start="2025-06-01T12:00Z")
    wrong = [Symbol("BTC/USDT"), Symbol("NOBODY/USDT"), Symbol("NOTHING/USDT")]
    with pytest.raises(UnknownSymbol, match="NOBODY/USDT, NOTHING/USDT"):
        async with open_exchange(Market.SPOT, Settings(exchange_url=replay.url), {}, wrong):
            pytest.fail("it was opened")


def listed(name: str, since_ms: int) -> ListingTimes:
    """What a universe knows of a symbol that is listed."""
    return ListingTimes(likely_name(Symbol(name)), (Span(since_ms, None, "since first bar"),))
