"""Recorded WebSocket captures of Binance, through the very classes that stream: closed bars come out, and only they."""

import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from ohlcv_assets.bars import Channel, validate
from ohlcv_assets.clock import SystemClock
from ohlcv_assets.exchange.binance import ccxt_config
from ohlcv_assets.exchange.connection import ClosedKline, closed_klines_class
from ohlcv_assets.exchange.listing import Listed, Listing
from ohlcv_assets.exchange.stream_writer import Writer
from ohlcv_assets.exchange.tally import Tally
from ohlcv_assets.instruments import Market, Symbol
from ohlcv_assets.timestamps import DAY_MS, MINUTE_MS, Interval, floor_to

pytestmark = pytest.mark.real_data

CAPTURES = {
    Market.FUTURES: "cryptofeed_BINANCE_FUTURES.ws.1.0.gz",
    Market.SPOT: "cryptofeed_BINANCE.ws.1.0.gz",
}


def messages(path: Path) -> Iterator[dict[str, Any]]:
    """The JSON messages of a capture, whose lines are `receive time: message`; the first line is the address."""
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        for line in lines:
            _, separator, text = line.partition(": ")
            if separator and text.startswith("{"):
                yield json.loads(text)


def klines_in(path: Path) -> list[dict[str, Any]]:
    found = [message.get("data", message) for message in messages(path)]
    return [event["k"] for event in found if event.get("e") == "kline"]


def through_the_socket(market: Market, path: Path) -> list[ClosedKline]:
    """What our ccxt.pro class hands on when it is given every message of the capture."""
    taken: list[ClosedKline] = []
    socket = closed_klines_class()(ccxt_config(market, None))
    socket.on_closed = taken.append
    for message in messages(path):
        if message.get("data", message).get("e") == "kline":
            socket.handle_message(None, message)
    return taken


def listing_of(market: Market, exchange_ids: set[str]) -> Listing:
    suffix = ":USDT" if market is Market.FUTURES else ""
    symbols = {}
    for exchange_id in exchange_ids:
        quote = next(quote for quote in ("USDT", "BTC", "ETH", "EUR") if exchange_id.endswith(quote))
        symbols[Symbol(f"{exchange_id.removesuffix(quote)}/{quote}{suffix}")] = Listed(exchange_id, None, True)
    return Listing(market, symbols)


async def stored(market: Market, taken: list[ClosedKline], listing: Listing, interval: Interval) -> pl.DataFrame:
    """What the writer stores of these closed klines."""
    frames: list[pl.DataFrame] = []

    async def sink(bars: pl.DataFrame, channel: Channel) -> None:
        assert channel is Channel.WEBSOCKET
        frames.append(validate(bars))

    writer = Writer(listing, SystemClock(), interval, Tally(interval, dict.fromkeys(listing, 0)), sink, lambda: None)
    for closed in taken:
        writer.take(closed)
    writer.finish()
    await writer.run()
    return pl.concat(frames)


async def test_the_closed_bars_of_a_futures_capture_and_no_others_are_stored(recorded_data):
    """Of 67 recorded kline events exactly the four with x: true become bars, each string's exact double."""
    path = recorded_data / "ws" / CAPTURES[Market.FUTURES]
    events = klines_in(path)
    closed = [kline for kline in events if kline["x"]]
    assert (len(events), len(closed)) == (67, 4)
    listing = listing_of(Market.FUTURES, {kline["s"] for kline in events})
    day_ms = floor_to(closed[0]["t"], DAY_MS)
    bars = await stored(
        Market.FUTURES, through_the_socket(Market.FUTURES, path), listing, Interval(day_ms, day_ms + DAY_MS)
    )
    expected = sorted(
        (
            listing.symbol_of(k["s"]), k["t"], float(k["o"]), float(k["h"]), float(k["l"]), float(k["c"]), float(k["v"]),
            float(k["q"]), k["n"], float(k["V"]), float(k["Q"]),
        )
        for k in closed
    )  # fmt: skip
    assert bars.drop("market", "end_download_timestamp").sort("symbol", "timestamp").rows() == expected


async def test_a_spot_capture_without_a_closed_bar_stores_nothing(recorded_data):
    """Partial bars, however many, are never taken for finished ones."""
    path = recorded_data / "ws" / CAPTURES[Market.SPOT]
    events = klines_in(path)
    assert events
    assert len(through_the_socket(Market.SPOT, path)) == sum(kline["x"] for kline in events)


async def test_the_same_closed_bar_twice_is_stored_once_and_a_changed_one_again(recorded_data):
    """Two connections deliver the same event and it is one bar; another value for it is handed on to the store."""
    path = recorded_data / "ws" / CAPTURES[Market.FUTURES]
    first = through_the_socket(Market.FUTURES, path)[0]
    changed = ClosedKline(
        first.symbol_id, first.kline | {"n": first.kline["n"] + 1}, first.received, first.received_monotonic_s
    )
    listing = listing_of(Market.FUTURES, {first.symbol_id})
    minute = first.kline["t"]
    bars = await stored(
        Market.FUTURES, [first, first, changed, changed], listing, Interval(minute, minute + MINUTE_MS)
    )
    assert bars["trade_count"].to_list() == [first.kline["n"], first.kline["n"] + 1]


async def test_a_broken_event_harms_no_other(recorded_data):
    """A closed kline with a field that is no number is left out and logged; the bars around it are stored."""
    path = recorded_data / "ws" / CAPTURES[Market.FUTURES]
    taken = through_the_socket(Market.FUTURES, path)
    broken = [
        ClosedKline(taken[0].symbol_id, taken[0].kline | change, taken[0].received, 0.0)
        for change in ({"c": "NaN"}, {"t": "soon"}, {"T": 1}, {"v": None}, {"i": "5m"}, {"n": "9"})
    ]
    listing = listing_of(Market.FUTURES, {closed.symbol_id for closed in taken})
    day_ms = floor_to(taken[0].kline["t"], DAY_MS)
    bars = await stored(Market.FUTURES, [*broken, *taken], listing, Interval(day_ms, day_ms + DAY_MS))
    assert bars.height == 4
