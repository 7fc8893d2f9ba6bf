"""What a day's download finds out about the minutes that are not there: from a real exchange process into a real lake."""

import json
from collections.abc import Mapping
from datetime import date
from pathlib import Path

import polars as pl
import pytest

from ohlcv_assets.capture import download_day
from ohlcv_assets.exchange import absence
from ohlcv_assets.exchange.binance import open_exchange
from ohlcv_assets.instruments import Market, Symbol, Universe
from ohlcv_assets.listing_times import ListingTimes, Span
from ohlcv_assets.quality.causes import Cause
from ohlcv_assets.settings import Settings
from ohlcv_assets.storage.lake import ABSENT_SCHEMA, Lake, Signature
from ohlcv_assets.timestamps import Interval, iso, runs_of_minutes

_DAY = date(2025, 6, 1)
_NIGHT = "2025-06-02T00:30Z"


async def _downloaded(replay, market: Market, folder: Path, listings: Mapping[Symbol, ListingTimes] | None = None):
    """The day of every symbol in a lake: what is said of each that lacks something, `(cause, from, until, proof)` by name."""
    names = sorted({*replay.truth(market)["symbol"].unique()})
    universe = Universe.of("v0.1", {market: names}, listings=listings)
    lake, signature = Lake(str(folder)), Signature.daily(market, universe)
    async with open_exchange(market, Settings(exchange_url=replay.url)) as exchange:
        exchange.listing = exchange.listing.knowing(universe.listings)
        done = await download_day(exchange, lake, signature, universe.symbols[market], _DAY)
    stored = lake.read_absent(signature, _DAY)
    assert stored.equals(done.absent)
    assert dict(stored.schema) == ABSENT_SCHEMA
    said: dict[str, list[tuple[str, str, str, dict[str, object]]]] = {}
    for (symbol, cause, proof), minutes in stored.group_by("symbol", "cause", "proof", maintain_order=True):
        for run in runs_of_minutes(minutes["timestamp"].to_list()):
            told = (str(cause), iso(run.start_ms), iso(run.end_ms), json.loads(str(proof)))
            said.setdefault(str(symbol), []).append(told)
    return said


async def test_a_day_without_gaps_says_that_nothing_is_absent(replay_factory, tmp_path):
    """An empty list is stored beside the bars: that nothing is absent is known, and not only not said."""
    replay = replay_factory(symbols=2, days=2, start=_NIGHT)
    assert await _downloaded(replay, Market.FUTURES, tmp_path) == {}
    assert list(tmp_path.rglob("absent.parquet"))


async def test_spot_symbols_are_dated_by_their_first_bar_and_ended_by_status_and_last_bar(replay_factory, tmp_path):
    """Before the first bar not listed yet, after the last one of a symbol that alone is in a break delisted, halts in between."""
    replay = replay_factory(symbols=6, days=3, first_day=date(2025, 5, 31), start=_NIGHT)
    first, second, third = (str(s) for s in sorted(replay.truth(Market.SPOT)["symbol"].unique())[:3])
    ids = [name.replace("/", "") for name in (first, second, third)]
    replay.inject(
        [
            {"fault": "list_at", "symbols": [ids[0]], "from": "2025-06-01T09:00Z"},
            {"fault": "delist_at", "symbols": [ids[1]], "from": "2025-06-01T20:00Z"},
            {"fault": "halt", "symbols": [ids[2]], "from": "2025-06-01T00:00Z", "until": "2025-06-01T00:07Z"},
            {"fault": "halt", "symbols": [ids[1]], "from": "2025-06-01T05:00Z", "until": "2025-06-01T05:02Z"},
        ]
    )
    said = await _downloaded(replay, Market.SPOT, tmp_path)
    assert {symbol: [told[:3] for told in runs] for symbol, runs in said.items()} == {
        first: [("not_listed_yet", "2025-06-01T00:00Z", "2025-06-01T09:00Z")],
        second: [
            ("exchange_halt", "2025-06-01T05:00Z", "2025-06-01T05:02Z"),
            ("delisted", "2025-06-01T20:00Z", "2025-06-02T00:00Z"),
        ],
        third: [("exchange_halt", "2025-06-01T00:00Z", "2025-06-01T00:07Z")],
    }
    assert said[first][0][3]["first_bar"] == "2025-06-01T09:00Z"
    assert said[second][0][3]["answers"] == 2
    assert (said[second][1][3]["last_bar"], said[second][1][3]["status"]) == ("2025-06-01T19:59Z", "BREAK")


async def test_a_halt_of_the_whole_market_over_midnight_is_no_delisting(replay_factory, tmp_path):
    """Nobody trades: that a symbol is in a break then says nothing about the symbol."""
    replay = replay_factory(symbols=3, days=2, start=_NIGHT)
    replay.inject([{"fault": "halt", "from": "2025-06-01T23:00Z", "until": "2025-06-02T02:00Z"}])
    said = await _downloaded(replay, Market.SPOT, tmp_path)
    assert len(said) == 3
    assert {told[:3] for runs in said.values() for told in runs} == {
        ("exchange_halt", "2025-06-01T23:00Z", "2025-06-02T00:00Z")
    }


async def test_futures_say_when_they_are_listed_and_a_universe_when_they_were(replay_factory, tmp_path):
    """Their onboardDate and a universe's times are the proof, and no first bar is asked for."""
    replay = replay_factory(symbols=3, days=2, start=_NIGHT)
    first, second = (Symbol(s) for s in sorted(replay.truth(Market.FUTURES)["symbol"].unique())[:2])
    ids = [name.split(":")[0].replace("/", "") for name in (first, second)]
    replay.inject(
        [
            {"fault": "list_at", "symbols": [ids[0]], "from": "2025-06-01T09:00Z"},
            {"fault": "delist_at", "symbols": [ids[1]], "from": "2025-06-01T20:00Z", "gone": True},
        ]
    )
    end = Interval.parse("2025-06-01", "2025-06-01T20:00Z").end_ms
    times = ListingTimes(ids[1], (Span(None, end, "until last bar"),))
    said = await _downloaded(replay, Market.FUTURES, tmp_path, {second: times})
    assert [told[:3] for told in said[first]] == [("not_listed_yet", "2025-06-01T00:00Z", "2025-06-01T09:00Z")]
    assert said[first][0][3]["listed_since"] == "2025-06-01T09:00Z"
    assert [told[:3] for told in said[second]] == [("delisted", "2025-06-01T20:00Z", "2025-06-02T00:00Z")]
    assert said[second][0][3]["source"] == "until last bar"


def test_the_causes_have_one_name():
    """What the download calls a cause is what the ledger calls it."""
    names = {absence.NOT_LISTED_YET, absence.DELISTED, absence.EXCHANGE_HALT, absence.UNKNOWN}
    assert names <= {cause.value for cause in Cause}


@pytest.mark.real_data
async def test_a_real_outage_is_a_halt_minute_by_minute(replay_factory, recorded_data, tmp_path):
    """2021-04-25: each symbol lacks its own minutes, every one of them is called halted, and no other."""
    recording = recorded_data / "klines" / "spot_rest_1m_40sym_2021-04-20_2021-04-25.parquet"
    replay = replay_factory(data=recording, market=Market.SPOT, start="2021-04-24T00:05Z")
    day = date(2021, 4, 20)
    names = sorted(replay.truth(Market.SPOT)["symbol"].unique())
    universe = Universe.of("v0.1", {Market.SPOT: names})
    lake, signature = Lake(str(tmp_path)), Signature.daily(Market.SPOT, universe)
    async with open_exchange(Market.SPOT, Settings(exchange_url=replay.url)) as exchange:
        await download_day(exchange, lake, signature, universe.symbols[Market.SPOT], day)
    absent, bars = lake.read_absent(signature, day), lake.read_day(signature, day)
    assert absent.height + bars.height == len(names) * 1440
    assert absent.join(bars, on=("symbol", "timestamp"), how="semi").is_empty()
    leading = absent.filter(pl.col("cause") == "not_listed_yet")
    assert leading["symbol"].str.ends_with("/USDT").all()
    halted = absent.filter(pl.col("cause") == "exchange_halt").group_by("symbol").len()
    assert set(halted["symbol"]) == {name for name in names if name.endswith("/BTC")}
    assert set(halted["len"]) == {150}
