"""Streaming from a replay exchange: every bar of the interval stored, bit for bit, whatever happens to the socket."""

import asyncio
from collections import Counter
from collections.abc import Callable

import polars as pl
import pytest

from ohlcv_assets.bars import CAPTURED_SCHEMA, KEY, VALUES, Channel, validate
from ohlcv_assets.errors import DatabaseUnavailable
from ohlcv_assets.exchange.binance import Exchange, open_exchange
from ohlcv_assets.exchange.stream import stream_bars
from ohlcv_assets.instruments import Market
from ohlcv_assets.settings import Settings
from ohlcv_assets.timestamps import MINUTE_MS, Interval, floor_to, parse_time

NOON = "2025-06-01T12:00Z"
DELAY_S, OVERLAP_S = 3.5, 30.0


class MemorySink:
    """Keeps every frame it is given, as the store would, and checks each as the store does."""

    def __init__(self, when_stored: Callable[["MemorySink"], None] | None = None) -> None:
        self.frames: list[pl.DataFrame] = []
        self.channels: list[Channel] = []
        self._when_stored = when_stored

    async def __call__(self, bars: pl.DataFrame, channel: Channel) -> None:
        """Keep the bars."""
        assert dict(bars.schema) == CAPTURED_SCHEMA
        assert not bars.is_empty()
        assert bars.equals(validate(bars).sort("symbol", "timestamp"))
        self.frames.append(bars)
        self.channels.append(channel)
        if self._when_stored is not None:
            self._when_stored(self)

    def bars(self, interval: Interval) -> pl.DataFrame:
        """Key and values of what was stored in `interval`, sorted; a bar given twice is there twice."""
        return bars_in(pl.concat([pl.DataFrame(schema=CAPTURED_SCHEMA), *self.frames]), interval)


def bars_in(frame: pl.DataFrame, interval: Interval) -> pl.DataFrame:
    inside = frame.filter(pl.col("timestamp").is_between(interval.start_ms, interval.end_ms, closed="left"))
    return inside.select(*KEY, *VALUES).sort("symbol", "timestamp")


def minutes_around_now(exchange: Exchange, before: int, after: int) -> Interval:
    """So many whole minutes before the current one, and so many from it on."""
    this_ms = floor_to(exchange.clock.now_ms(), MINUTE_MS)
    return Interval(this_ms - before * MINUTE_MS, this_ms + after * MINUTE_MS)


async def stream(exchange: Exchange, interval: Interval, sink: MemorySink, **options):
    return await stream_bars(
        exchange, sorted(exchange.listing), interval, sink, delay_s=DELAY_S, overlap_s=OVERLAP_S, **options
    )


@pytest.mark.parametrize("market", Market)
async def test_an_interval_begun_in_its_middle_is_whole(replay_factory, market):
    """Of an interval that is half over, every bar is stored once and equal to the exchange's, what is new by WebSocket."""
    replay = replay_factory(symbols=8, speed=60.0, start=NOON)
    sink, told = MemorySink(), []
    async with open_exchange(market, Settings(exchange_url=replay.url)) as exchange:
        interval = minutes_around_now(exchange, 6, 4)
        report = await stream(exchange, interval, sink, on_progress=lambda *done: told.append(done))
        ended_ms = exchange.clock.now_ms()
    truth = bars_in(replay.truth(market), interval)
    assert sink.bars(interval).equals(truth)
    assert report.bars_present == report.bars_expected == truth.height == 8 * 10
    assert report.missing.is_empty()
    assert sum(report.by_channel.values()) == truth.height
    assert report.by_channel[Channel.REST] >= 8 * 6
    assert report.by_channel[Channel.WEBSOCKET] > 0
    assert report.latency_s.count == report.by_channel[Channel.WEBSOCKET] == report.event_to_commit_ms.count
    assert report.latency_s.p50 > 0
    assert (report.first_timestamp, report.last_timestamp) == (interval.start_ms, interval.end_ms - MINUTE_MS)
    assert report.reconnects == 0
    assert ended_ms >= interval.end_ms + OVERLAP_S * 1000
    assert told[-1] == (truth.height, truth.height)
    assert replay.stats()["refused"] == {"429": 0, "418": 0}


async def test_nothing_unfinished_is_ever_stored(replay_factory):
    """No bar is stored before its minute is over, although the exchange sends it all the while."""
    replay = replay_factory(symbols=3, speed=60.0, start=NOON)
    early = []
    async with open_exchange(Market.FUTURES, Settings(exchange_url=replay.url)) as exchange:

        def check(sink: MemorySink) -> None:
            now_ms = exchange.clock.now_ms()
            early.extend(ms for ms in sink.frames[-1]["timestamp"] if ms + MINUTE_MS > now_ms + 1000)

        await stream(exchange, minutes_around_now(exchange, 1, 4), MemorySink(check))
    assert early == []


async def test_what_is_stored_already_is_not_fetched_again(replay_factory):
    """A run that is started again asks only for what the first one did not store."""
    replay = replay_factory(symbols=4, speed=60.0, start=NOON)
    sink = MemorySink()
    async with open_exchange(Market.SPOT, Settings(exchange_url=replay.url)) as exchange:
        interval = minutes_around_now(exchange, 30, 2)
        truth = bars_in(replay.truth(Market.SPOT), interval)
        there = truth.filter(
            (pl.col("timestamp") < interval.start_ms + 29 * MINUTE_MS) & (pl.col("symbol") != "ETH/USDT")
        )
        already = set(there.select("symbol", "timestamp").iter_rows())
        report = await stream(exchange, interval, sink, already=already)
    assert report.bars_present == truth.height
    assert sink.bars(interval).equals(truth.join(there, on=KEY, how="anti"))
    assert sum(report.by_channel.values()) == truth.height - there.height


async def test_an_interval_that_is_over_opens_no_socket(replay_exchange):
    """The past is fetched by REST alone, and the run ends as soon as it is stored."""
    before = replay_exchange.stats()["connections_opened"]
    sink = MemorySink()
    interval = Interval(parse_time("2025-06-01T10:00Z"), parse_time("2025-06-01T11:00Z"))
    async with open_exchange(Market.FUTURES, Settings(exchange_url=replay_exchange.url)) as exchange:
        report = await stream(exchange, interval, sink)
    assert sink.bars(interval).equals(bars_in(replay_exchange.truth(Market.FUTURES), interval))
    assert set(sink.channels) == {Channel.REST}
    assert report.by_channel == {Channel.WEBSOCKET: 0, Channel.REST: 240}
    assert report.rest_repairs == 0
    assert replay_exchange.stats()["connections_opened"] == before


@pytest.mark.real_data
async def test_minutes_that_the_exchange_does_not_have_are_named_missing(replay_factory, recorded_data):
    """Through a real outage of spot, what two answers agree not to have is named, and the run ends."""
    recording = recorded_data / "klines" / "spot_rest_1m_40sym_2021-04-20_2021-04-25.parquet"
    replay = replay_factory(data=recording, market=Market.SPOT, start="2021-04-25T12:00Z", speed=60.0)
    interval = Interval.parse("2021-04-25T03:50Z", "2021-04-25T04:10Z")
    sink = MemorySink()
    async with open_exchange(Market.SPOT, Settings(exchange_url=replay.url)) as exchange:
        report = await stream(exchange, interval, sink)
    truth = bars_in(replay.truth(Market.SPOT), interval)
    assert sink.bars(interval).equals(truth)
    assert report.missing.height == report.bars_expected - truth.height > 0
    assert report.unanswered == 0
    assert report.missing.join(truth, on=["symbol", "timestamp"], how="semi").is_empty()


async def test_a_broken_connection_loses_nothing(replay_factory, cuttable):
    """The socket is reset twice and once cannot be opened for minutes: it is connected again and every bar is there."""
    replay = replay_factory(symbols=6, speed=60.0, start=NOON)
    proxy, url = await cuttable(replay.url)
    sink = MemorySink()
    async with open_exchange(Market.FUTURES, Settings(exchange_url=url)) as exchange:
        interval = minutes_around_now(exchange, 0, 7)

        async def break_things() -> None:
            await exchange.clock.sleep(70)
            assert proxy.cut() > 0
            await exchange.clock.sleep(100)
            proxy.refuse()
            proxy.cut()
            await exchange.clock.sleep(110)
            proxy.refuse(False)

        report, _ = await asyncio.gather(stream(exchange, interval, sink), break_things())
    assert report.reconnects >= 2
    assert report.rest_repairs > 0
    assert report.missing.is_empty()
    assert sink.bars(interval).equals(bars_in(replay.truth(Market.FUTURES), interval))


async def test_a_connection_that_falls_silent_is_replaced(replay_factory, cuttable):
    """A peer that neither sends nor closes is found by its silence, and every bar is there in the end."""
    replay = replay_factory(symbols=4, speed=60.0, start=NOON)
    proxy, url = await cuttable(replay.url)
    sink = MemorySink()
    async with open_exchange(Market.SPOT, Settings(exchange_url=url)) as exchange:
        interval = minutes_around_now(exchange, 0, 6)

        async def freeze() -> None:
            await exchange.clock.sleep(70)
            assert proxy.freeze() > 0

        report, _ = await asyncio.gather(stream(exchange, interval, sink), freeze())
    assert report.reconnects + report.hand_overs == 1
    assert report.missing.is_empty()
    assert sink.bars(interval).equals(bars_in(replay.truth(Market.SPOT), interval))


async def test_two_streamers_at_once_store_the_same_bars(replay_factory):
    """Two runs of neighbouring intervals that overlap give their common sink no two values for a bar, and all bars."""
    replay = replay_factory(symbols=4, speed=60.0, start=NOON)
    sink = MemorySink()
    settings = Settings(exchange_url=replay.url)
    async with open_exchange(Market.SPOT, settings) as one, open_exchange(Market.SPOT, settings) as other:
        first = minutes_around_now(one, 0, 3)
        second = Interval(first.end_ms, first.end_ms + 2 * MINUTE_MS)

        async def run(exchange: Exchange, interval: Interval):
            symbols = sorted(exchange.listing)
            return await stream_bars(exchange, symbols, interval, sink, delay_s=DELAY_S, overlap_s=90)

        reports = await asyncio.gather(run(one, first), run(other, second))
    whole = Interval(first.start_ms, second.end_ms)
    stored = sink.bars(whole)
    assert [report.missing.height for report in reports] == [0, 0]
    assert all(report.overlap_bars > 0 for report in reports)
    assert stored.height > stored.n_unique()
    assert stored.unique().sort("symbol", "timestamp").equals(bars_in(replay.truth(Market.SPOT), whole))


async def test_a_cancelled_stream_writes_what_it_has(replay_factory):
    """What has arrived when the run is cancelled is stored before it ends, however slow the store is."""
    replay = replay_factory(symbols=12, speed=60.0, start=NOON)
    slow, given = asyncio.Event(), asyncio.Event()
    begun: list[int] = []

    class SlowSink(MemorySink):
        async def __call__(self, bars: pl.DataFrame, channel: Channel) -> None:
            begun.append(bars.height)
            given.set()
            await slow.wait()
            await super().__call__(bars, channel)

    sink = SlowSink()
    async with open_exchange(Market.SPOT, Settings(exchange_url=replay.url)) as exchange:
        interval = minutes_around_now(exchange, 0, 30)
        running = asyncio.create_task(stream(exchange, interval, sink))
        await given.wait()
        # While the store holds the first batch, the rest of that minute arrives and waits behind it.
        await exchange.clock.sleep(30)
        running.cancel()
        await exchange.clock.sleep(5)
        slow.set()
        with pytest.raises(asyncio.CancelledError):
            await running
    stored = Counter(sink.bars(interval)["timestamp"].to_list())
    assert sum(begun) == sum(frame.height for frame in sink.frames)
    assert set(stored.values()) == {12}


async def test_a_sink_that_fails_ends_the_stream_with_its_error(replay_factory):
    """The store's error is the stream's error, unchanged, and nothing hangs."""
    replay = replay_factory(symbols=2, speed=60.0, start=NOON)

    async def broken(bars: pl.DataFrame, channel: Channel) -> None:
        raise DatabaseUnavailable("gone")

    async with open_exchange(Market.SPOT, Settings(exchange_url=replay.url)) as exchange:
        interval = minutes_around_now(exchange, 2, 5)
        with pytest.raises(DatabaseUnavailable, match="gone"):
            await stream_bars(exchange, ["BTC/USDT"], interval, broken, delay_s=DELAY_S, overlap_s=0)
