"""Fetching by REST from a replay exchange: every finished bar, bit for bit, or an error."""

import asyncio
import gc
import socket
import subprocess
import sys
import warnings

import polars as pl
import pytest
import requests

from ohlcv_assets.bars import CAPTURED_SCHEMA, KEY, VALUES, validate
from ohlcv_assets.errors import ExchangeUnavailable, UnknownSymbol
from ohlcv_assets.exchange.binance import Exchange, klines_weight, open_exchange
from ohlcv_assets.exchange.fetch import CONCURRENCY, fetch_bars, pages_of
from ohlcv_assets.instruments import Market
from ohlcv_assets.settings import Settings
from ohlcv_assets.timestamps import HOUR_MS, MINUTE_MS, Interval, floor_to, parse_time

NOON = "2025-06-01T12:00Z"
DAY = Interval(parse_time("2025-06-01"), parse_time("2025-06-02"))
MORNING = Interval(DAY.start_ms, DAY.start_ms + 12 * HOUR_MS)


def bars_in(frame: pl.DataFrame, interval: Interval) -> pl.DataFrame:
    """Key and values of the bars in `interval`, sorted: what two captures must agree on."""
    inside = frame.filter(pl.col("timestamp").is_between(interval.start_ms, interval.end_ms, closed="left"))
    return inside.select(*KEY, *VALUES).sort("symbol", "timestamp")


@pytest.mark.parametrize("market", Market)
async def test_half_a_day_is_fetched_bit_for_bit(replay_exchange, market):
    """Every bar of every symbol equals what the exchange's bars are at last, each once, and nothing is missing."""
    async with open_exchange(market, Settings(exchange_url=replay_exchange.url)) as exchange:
        fetched = await fetch_bars(exchange, sorted(exchange.listing), MORNING)
    truth = bars_in(replay_exchange.truth(market), MORNING)
    assert dict(fetched.bars.schema) == CAPTURED_SCHEMA
    assert validate(fetched.bars).select(*KEY, *VALUES).equals(truth)
    assert fetched.missing.is_empty()
    assert fetched.not_listed.is_empty()
    assert fetched.until_ms == MORNING.end_ms
    assert fetched.weight == fetched.requests * 2 == 4 * 2 * (2 if market is Market.FUTURES else 1)


@pytest.mark.parametrize("market", Market)
async def test_what_is_not_finished_is_neither_fetched_nor_missing(replay_exchange, market):
    """An interval that reaches into the future ends at the last full minute of the exchange's clock."""
    symbols = 2
    async with open_exchange(market, Settings(exchange_url=replay_exchange.url)) as exchange:
        wanted = sorted(exchange.listing)[:symbols]
        fetched = await fetch_bars(exchange, wanted, DAY)
        now_ms = exchange.clock.now_ms()
    last = fetched.bars["timestamp"].max()
    assert last + MINUTE_MS == fetched.until_ms <= now_ms < fetched.until_ms + 2 * MINUTE_MS
    assert fetched.missing.is_empty()
    assert fetched.bars.height == symbols * (fetched.until_ms - DAY.start_ms) // MINUTE_MS


async def test_an_interval_in_the_future_is_empty_and_costs_nothing(replay_exchange):
    """Nothing is asked for what cannot be there yet."""
    async with open_exchange(Market.SPOT, Settings(exchange_url=replay_exchange.url)) as exchange:
        later = floor_to(exchange.clock.now_ms(), HOUR_MS) + 3 * HOUR_MS
        fetched = await fetch_bars(exchange, ["BTC/USDT"], Interval(later, later + HOUR_MS))
    assert fetched.bars.is_empty()
    assert fetched.missing.is_empty()
    assert fetched.requests == 0


async def test_progress_counts_up_to_all(replay_exchange):
    """The caller is told after every page how much is done, and at last that all is."""
    told = []
    async with open_exchange(Market.FUTURES, Settings(exchange_url=replay_exchange.url)) as exchange:
        symbols = sorted(exchange.listing)
        await fetch_bars(exchange, symbols, MORNING, on_progress=lambda done, all_: told.append((done, all_)))
    assert [done for done, _ in told] == sorted(done for done, _ in told)
    assert told[-1] == (len(symbols) * 720, len(symbols) * 720)


async def test_an_unknown_symbol_is_refused_before_anything_is_asked(replay_exchange):
    """A symbol that is not listed is one clear error that names the nearest ones."""
    async with open_exchange(Market.SPOT, Settings(exchange_url=replay_exchange.url)) as exchange:
        before = exchange.usage.requests
        with pytest.raises(UnknownSymbol, match=r"BTC/USDC") as raised:
            await fetch_bars(exchange, ["BTC/USDT", "BTC/USDC"], MORNING)
        assert "BTC/USDT" in raised.value.hint
        assert exchange.usage.requests == before


async def test_an_exchange_that_is_not_there_is_one_line_and_what_to_do():
    """Where nobody listens, the error says so and names the setting."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}"
    with pytest.raises(ExchangeUnavailable, match="does not tell the time") as raised:
        async with open_exchange(Market.SPOT, Settings(exchange_url=url)):
            pass
    assert "OHLCV_EXCHANGE_URL" in str(raised.value)


async def test_nothing_stays_open(replay_exchange):
    """Opening and closing an exchange leaves no session behind, also when the body fails."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with pytest.raises(ZeroDivisionError):
            async with open_exchange(Market.SPOT, Settings(exchange_url=replay_exchange.url)):
                raise ZeroDivisionError
        await asyncio.sleep(0)
        gc.collect()
    assert [str(warning.message) for warning in caught if issubclass(warning.category, ResourceWarning)] == []


@pytest.mark.real_data
async def test_minutes_that_the_exchange_does_not_have_are_named(replay_factory, recorded_data):
    """Through a real outage of spot, every minute asked for is either a bar or named missing, and neither is made up."""
    recording = recorded_data / "klines" / "spot_rest_1m_40sym_2021-04-20_2021-04-25.parquet"
    replay = replay_factory(data=recording, market=Market.SPOT, start="2021-04-25T12:00Z")
    around = Interval.parse("2021-04-25T03:30Z", "2021-04-25T09:00Z")
    truth = bars_in(replay.truth(Market.SPOT), around)
    async with open_exchange(Market.SPOT, Settings(exchange_url=replay.url)) as exchange:
        symbols = sorted(exchange.listing)[:12]
        fetched = await fetch_bars(exchange, symbols, around)
    truth = truth.filter(pl.col("symbol").is_in(symbols))
    assert fetched.bars.select(*KEY, *VALUES).equals(truth)
    grid = {(symbol, minute) for symbol in symbols for minute in around.minutes}
    present = set(truth.select("symbol", "timestamp").iter_rows())
    assert set(fetched.missing.iter_rows()) == grid - present
    assert fetched.missing.height > 250 * len(symbols)


def spend_elsewhere(url: str, weight: int) -> None:
    """Use up the futures weight of the current minute as somebody else behind the same address would."""
    question = {"symbol": "BTCUSDT", "interval": "1m", "limit": 1500}
    with requests.Session() as session:
        used = 0
        while used < weight:
            answer = session.get(f"{url}/fapi/v1/klines", params=question, timeout=10)
            used = int(answer.headers["X-MBX-USED-WEIGHT-1M"])


async def at_the_start_of_a_minute(exchange: Exchange) -> None:
    into_ms = exchange.clock.now_ms() % MINUTE_MS
    await exchange.clock.sleep((MINUTE_MS - into_ms) / 1000 + 6)


async def test_weight_that_others_spent_from_this_address_counts(replay_factory):
    """With the minute nearly used up by somebody else, a fetch waits for the next one instead of running into a 429."""
    replay = replay_factory(symbols=4, speed=20.0, start=NOON)
    async with open_exchange(Market.FUTURES, Settings(exchange_url=replay.url)) as exchange:
        await at_the_start_of_a_minute(exchange)
        await asyncio.to_thread(spend_elsewhere, replay.url, 2250)
        for _ in range(4):
            await fetch_bars(exchange, sorted(exchange.listing), MORNING)
    assert replay.stats()["refused"] == {"429": 0, "418": 0}
    assert replay.stats()["max_used_weight"]["futures"] <= 2400


async def test_a_429_stops_everybody_until_it_is_over(replay_factory):
    """Requests that were under way when the limit was reached are refused; then nothing is sent until it is allowed."""
    replay = replay_factory(symbols=6, speed=20.0, start=NOON)
    async with open_exchange(Market.FUTURES, Settings(exchange_url=replay.url)) as exchange:
        await at_the_start_of_a_minute(exchange)
        await asyncio.to_thread(spend_elsewhere, replay.url, 2400)
        before_ms = exchange.clock.now_ms()
        fetched = await fetch_bars(exchange, sorted(exchange.listing), MORNING)
        after_ms = exchange.clock.now_ms()
    assert fetched.bars.select(*KEY, *VALUES).equals(bars_in(replay.truth(Market.FUTURES), MORNING))
    assert floor_to(after_ms, MINUTE_MS) > floor_to(before_ms, MINUTE_MS)
    refused = replay.stats()["refused"]
    assert 1 <= refused["429"] <= CONCURRENCY
    assert refused["418"] == 0


_FETCH_SCRIPT = """
import asyncio, sys
from ohlcv_assets.exchange.binance import open_exchange
from ohlcv_assets.exchange.fetch import fetch_bars
from ohlcv_assets.instruments import Market
from ohlcv_assets.settings import Settings
from ohlcv_assets.timestamps import Interval

async def main():
    async with open_exchange(Market.FUTURES, Settings(exchange_url=sys.argv[1], weight_share=0.02)) as exchange:
        interval = Interval.parse("2025-06-01T00:00Z", "2025-06-01T12:00Z")
        for _ in range(4):
            fetched = await fetch_bars(exchange, sorted(exchange.listing), interval)
        print(fetched.bars.height)

asyncio.run(main())
"""


def test_two_processes_share_one_budget(replay_factory):
    """Two fetches at once, each of which wants more than the share, never exceed it together: the exchange counted."""
    replay = replay_factory(symbols=4, speed=60.0, start="2025-06-01T12:00Z")
    command = [sys.executable, "-c", _FETCH_SCRIPT, replay.url]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    outputs = [process.communicate(timeout=60)[0].splitlines()[-1] for process in running]
    assert outputs == ["2880", "2880"]
    stats = replay.stats()
    assert stats["max_used_weight"]["futures"] <= 48
    assert sum(stats["used_weight"]["futures"].values()) >= 2 * 4 * 4 * 2 * 2


@pytest.mark.parametrize(("minutes", "sizes"), [(1, [1]), (499, [499]), (500, [250, 250]), (1440, [480, 480, 480])])
def test_pages_are_as_equal_as_they_can_be(minutes, sizes):
    """An interval is asked for in the fewest pages, all of one size."""
    pages = pages_of(Interval(DAY.start_ms, DAY.start_ms + minutes * MINUTE_MS), 499)
    assert [len(page.minutes) for page in pages] == sizes
    assert pages[0].start_ms == DAY.start_ms
    assert pages[-1].end_ms == DAY.start_ms + minutes * MINUTE_MS


def test_a_page_weighs_what_the_exchange_says():
    """The bands of Binance's documentation, at their edges."""
    assert [klines_weight(Market.FUTURES, limit) for limit in (1, 99, 100, 499, 500, 1000, 1001)] == [
        1,
        1,
        2,
        2,
        5,
        5,
        10,
    ]
    assert [klines_weight(Market.SPOT, limit) for limit in (1, 1000)] == [2, 2]
