"""Streaming through faults of the connection: planned ends cost nothing, and what is dead is found and replaced."""

import asyncio

import pytest

from ohlcv_assets.exchange import connection
from ohlcv_assets.exchange.binance import Exchange, open_exchange
from ohlcv_assets.exchange.stream import stream_bars
from ohlcv_assets.instruments import Market
from ohlcv_assets.settings import Settings
from ohlcv_assets.timestamps import MINUTE_MS, Interval, iso
from ohlcv_assets_tests.integration.test_stream import NOON, MemorySink, bars_in, minutes_around_now

#: Two exchange minutes a second; d is long enough that a busy machine fetches nothing that is on its way.
SPEED, DELAY_S, OVERLAP_S = 120.0, 20.0, 20.0


async def stream(exchange: Exchange, interval: Interval, sink: MemorySink, **options):
    return await stream_bars(
        exchange, sorted(exchange.listing), interval, sink, delay_s=DELAY_S, overlap_s=OVERLAP_S, **options
    )


async def test_an_announced_end_leaves_no_gap(replay_factory):
    """At `serverShutdown` another connection takes over before the first is closed, and no bar is lost."""
    replay = replay_factory(symbols=4, speed=SPEED, start=NOON)
    sink = MemorySink()
    async with open_exchange(Market.FUTURES, Settings(exchange_url=replay.url)) as exchange:
        interval = minutes_around_now(exchange, 0, 6)
        at_ms = interval.start_ms + 130_000
        replay.inject([{"fault": "ws_server_shutdown", "from": at_ms, "notice_s": 150}])
        report = await stream(exchange, interval, sink)
    assert len(replay.ledger("ws_server_shutdown")) == 1
    # How many bars REST brings besides is the machine's load: an exchange minute is half a second here.
    assert (report.hand_overs, report.reconnects) == (1, 0)
    assert sink.bars(interval).equals(bars_in(replay.truth(Market.FUTURES), interval))


async def test_a_connection_is_replaced_before_the_exchange_ends_it(replay_factory, monkeypatch):
    """Connections that live shorter than the exchange's limit hand over to the next one, again and again, without a gap."""
    monkeypatch.setattr(connection, "LIFETIME_S", 130.0)
    replay = replay_factory(symbols=4, speed=SPEED, start=NOON)
    sink = MemorySink()
    async with open_exchange(Market.SPOT, Settings(exchange_url=replay.url)) as exchange:
        interval = minutes_around_now(exchange, 0, 6)
        report = await stream(exchange, interval, sink)
    assert report.hand_overs >= 2
    assert report.reconnects == 0
    assert sink.bars(interval).equals(bars_in(replay.truth(Market.SPOT), interval))
    assert replay.stats()["connections"]["spot"] == 0


async def test_a_symbol_that_is_subscribed_and_deaf_is_heard_again(replay_factory):
    """One dead subscription among living ones is found by its first bar by REST, and the next connection has it."""
    replay = replay_factory(symbols=6, speed=SPEED, start=NOON)
    sink = MemorySink()
    async with open_exchange(Market.SPOT, Settings(exchange_url=replay.url)) as exchange:
        interval = minutes_around_now(exchange, 0, 8)
        dead = "ETHUSDT"
        from_ms = interval.start_ms + 75_000
        rule = {"fault": "ws_drop_subscription", "existing": True, "symbols": [dead]}
        replay.inject([rule | {"from": from_ms, "until": from_ms + 5_000}])
        report = await stream(exchange, interval, sink)
    assert replay.ledger("ws_drop_subscription")
    assert report.hand_overs >= 1
    assert report.reconnects == 0
    assert report.rest_repairs >= 1
    assert sink.bars(interval).equals(bars_in(replay.truth(Market.SPOT), interval))


async def test_a_subscription_that_stays_deaf_is_not_changed_without_end(replay_factory):
    """Where every connection is deaf for a symbol, REST brings its bars, and connections change less and less often."""
    rule = {"fault": "ws_drop_subscription", "symbols": ["BTCUSDT"], "market": "futures"}
    replay = replay_factory(symbols=3, speed=SPEED, start=NOON, faults=[rule])
    sink = MemorySink()
    async with open_exchange(Market.FUTURES, Settings(exchange_url=replay.url)) as exchange:
        interval = minutes_around_now(exchange, 0, 8)
        report = await stream(exchange, interval, sink)
    assert 1 <= report.hand_overs <= 3
    assert report.rest_repairs >= 7
    assert report.missing.is_empty()
    assert sink.bars(interval).equals(bars_in(replay.truth(Market.FUTURES), interval))


@pytest.mark.parametrize("fault", ["rest_418", "rest_429"])
async def test_nobody_asks_while_the_exchange_orders_a_stop(replay_factory, fault):
    """Through a stop in mid-stream no request goes out before its end, the WebSocket goes on, and all bars come."""
    replay = replay_factory(symbols=5, speed=SPEED, start=NOON)
    sink = MemorySink()
    async with open_exchange(Market.SPOT, Settings(exchange_url=replay.url)) as exchange:
        interval = minutes_around_now(exchange, 0, 6)
        stop = {"fault": fault, "from": interval.start_ms + MINUTE_MS, "for_s": 100, "retry_after_s": 90, "count": 1}
        lost = {"fault": "never_closed", "symbols": ["BTCUSDT"], "from": interval.start_ms}
        replay.inject([stop, lost])
        report = await stream(exchange, interval, sink)
    stops = replay.ledger(fault)
    assert stops
    assert not [entry for entry in stops if entry["detail"].startswith("asked too early")]
    assert report.reconnects == 0
    assert report.missing.is_empty()
    assert sink.bars(interval).equals(bars_in(replay.truth(Market.SPOT), interval))


async def test_a_symbol_that_is_refused_for_a_while_is_asked_again(replay_factory):
    """An exchange that says for two minutes that it has no such symbol, which it lists, loses none of its bars."""
    replay = replay_factory(symbols=2, speed=SPEED, start=NOON)
    sink = MemorySink()
    async with open_exchange(Market.SPOT, Settings(exchange_url=replay.url)) as exchange:
        interval = minutes_around_now(exchange, 0, 4)
        whole = {"market": "spot", "symbols": ["BTCUSDT"], "from": interval.start_ms}
        silent = {**whole, "fault": "never_closed", "until": interval.end_ms}
        refused = {**whole, "fault": "rest_error_code", "code": -1121, "until": interval.end_ms - 2 * MINUTE_MS}
        replay.inject([silent, refused])
        report = await stream(exchange, interval, sink)
    assert replay.ledger("rest_error_code")
    assert report.missing.is_empty()
    assert sink.bars(interval).equals(bars_in(replay.truth(Market.SPOT), interval))


async def test_a_sink_without_room_gets_the_bars_again(replay_factory):
    """Bars that found no room are fetched again, until there is some; none is called missing on the exchange."""
    replay = replay_factory(symbols=3, speed=SPEED, start=NOON)
    kept = MemorySink()
    refused = []

    class Receipt:
        stored = None

        def __init__(self, refused) -> None:
            self.refused = refused

    async def narrow(bars, channel):
        if bars["timestamp"].max() < interval.start_ms + 3 * MINUTE_MS and len(refused) < 6:
            refused.append(bars)
            return Receipt(bars)
        return await kept(bars, channel)

    async with open_exchange(Market.FUTURES, Settings(exchange_url=replay.url)) as exchange:
        interval = minutes_around_now(exchange, 0, 5)
        report = await stream_bars(exchange, sorted(exchange.listing), interval, narrow, delay_s=DELAY_S, overlap_s=0)
    assert refused
    assert report.bars_present == report.bars_expected == 15
    assert kept.bars(interval).equals(bars_in(replay.truth(Market.FUTURES), interval))


async def test_bars_that_wait_for_the_store_are_captured_and_not_stored(replay_factory):
    """While the store is away the run says so; when it comes back all are stored, with the latency that it cost."""
    replay = replay_factory(symbols=3, speed=SPEED, start=NOON)
    waiting: list[asyncio.Future[None]] = []
    minutes = []

    class Receipt:
        refused = None

        def __init__(self) -> None:
            self.stored = asyncio.get_running_loop().create_future()
            waiting.append(self.stored)

    async def away(bars, channel):
        return Receipt() if len(minutes) < 2 else None

    def told(minute) -> None:
        minutes.append(minute)
        if len(minutes) == 2:
            for each in waiting:
                each.set_result(None)

    async with open_exchange(Market.SPOT, Settings(exchange_url=replay.url)) as exchange:
        interval = minutes_around_now(exchange, 0, 4)
        report = await stream(exchange, interval, away, on_minute=told)
    assert [(minute.present, minute.spooled, minute.lacking) for minute in minutes[:2]] == [(0, 3, ()), (0, 3, ())]
    assert (report.bars_present, report.bars_spooled) == (12, 0)
    assert report.latency_s.max > 60


async def test_a_stop_lets_the_running_minute_be_the_last(replay_factory):
    """Told to stop, the stream stores every bar up to the end of that minute and expects nothing after it."""
    replay = replay_factory(symbols=4, speed=SPEED, start=NOON)
    sink, stopping = MemorySink(), asyncio.Event()
    async with open_exchange(Market.FUTURES, Settings(exchange_url=replay.url)) as exchange:
        interval = minutes_around_now(exchange, 2, 60)

        async def stop() -> None:
            await exchange.clock.sleep(100)
            stopping.set()

        report, _ = await asyncio.gather(stream(exchange, interval, sink, stopping=stopping), stop())
        ended_ms = exchange.clock.now_ms()
    assert report.interval.start_ms == interval.start_ms
    assert 3 <= len(report.interval.minutes) <= 6, iso(report.interval.end_ms)
    assert report.bars_present == report.bars_expected == 4 * len(report.interval.minutes)
    assert report.interval.end_ms <= ended_ms < report.interval.end_ms + 5 * MINUTE_MS
    assert sink.bars(report.interval).equals(bars_in(replay.truth(Market.FUTURES), report.interval))
