"""The database of bars against a real server: what is stored, what is refused, and what many writers do to it."""

from datetime import UTC, datetime

import polars as pl

from ohlcv_assets.bars import CAPTURED_SCHEMA, SCHEMA, Channel
from ohlcv_assets.instruments import Market
from ohlcv_assets.storage.database import Database, Recorded
from ohlcv_assets.timestamps import MINUTE_MS, Interval

START_MS = 1_748_736_000_000  # 2025-06-01T00:00Z
DAY = Interval(START_MS, START_MS + 1440 * MINUTE_MS)


def bar(minute: int = 0, symbol: str = "BTC/USDT:USDT", **values: float) -> pl.DataFrame:
    """One valid futures bar, with these values changed."""
    row = {
        "market": "futures", "symbol": symbol, "timestamp": START_MS + minute * MINUTE_MS,
        "open": 10.0, "high": 12.0, "low": 9.0, "close": 11.0, "volume": 5.0, "quote_volume": 50.0,
        "trade_count": 7, "taker_buy_volume": 2.0, "taker_buy_quote_volume": 20.0,
        "end_download_timestamp": datetime(2025, 6, 1, 0, minute + 1, tzinfo=UTC),
    }  # fmt: skip
    return pl.DataFrame([row | values], schema=CAPTURED_SCHEMA)


def test_what_was_recorded_is_read_back(database: Database) -> None:
    """A bar that was recorded is read back with the same values, the schema of a bar and its channel."""
    assert database.record(bar(), channel=Channel.WEBSOCKET, run_id="run") == Recorded(1, 0, 0)
    read = database.read(Market.FUTURES, DAY)
    assert read.schema == pl.Schema({**SCHEMA, "channel": pl.String()})
    assert read.select(list(CAPTURED_SCHEMA)).equals(bar())
    assert read["channel"].to_list() == ["websocket"]
