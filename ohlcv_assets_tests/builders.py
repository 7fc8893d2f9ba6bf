"""Bars for tests: generated ones, damaged ones, and recorded real ones in the form that the stores take.

Lives here: frames of `CAPTURED_SCHEMA`, seeded. Does not: fixtures, servers, or the bars that the replay exchange sends.
"""

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import polars as pl

from ohlcv_assets.bars import CAPTURED_SCHEMA, KEY
from ohlcv_assets.instruments import Market, Symbol
from ohlcv_assets.timestamps import MINUTE_MS, parse_time

SYMBOLS = ("BTC/USDT:USDT", "ETH/USDT:USDT")
DOWNLOADED = datetime(2025, 6, 2, 4, 0, 0, 123456, tzinfo=UTC)


def bars(
    symbols: Sequence[str] = SYMBOLS, *, start: str = "2025-06-01", minutes: int = 10, seed: int = 7
) -> pl.DataFrame:
    """Valid bars of every symbol and minute, on a tick of 0.01 and a step of 0.001, sorted by (symbol, timestamp)."""
    random = np.random.default_rng(seed)
    count = len(symbols) * minutes
    open_ = np.round(100 + np.cumsum(random.normal(0, 0.05, count)) % 50, 2)
    close = np.round(open_ + random.normal(0, 0.05, count), 2)
    volume = np.round(0.001 + random.exponential(5, count), 3)
    taker = np.round(volume * random.random(count), 3)
    return pl.DataFrame(
        {
            "market": np.repeat([Symbol(symbol).market.value for symbol in symbols], minutes),
            "symbol": np.repeat(list(symbols), minutes),
            "timestamp": np.tile(parse_time(start) + MINUTE_MS * np.arange(minutes), len(symbols)),
            "open": open_,
            "high": np.round(np.maximum(open_, close) + 0.01, 2),
            "low": np.round(np.minimum(open_, close) - 0.01, 2),
            "close": close,
            "volume": volume,
            "quote_volume": volume * close,
            "trade_count": 1 + random.poisson(30, count),
            "taker_buy_volume": taker,
            "taker_buy_quote_volume": taker * close,
            "end_download_timestamp": [DOWNLOADED] * count,
        },
        schema=CAPTURED_SCHEMA,
    ).sort("symbol", "timestamp")


def corrupted(frame: pl.DataFrame, row: int, column: str, value: object) -> pl.DataFrame:
    """The same frame with one other value in one row, counted from 0."""
    here = pl.int_range(pl.len()) == row
    return frame.with_columns(
        pl.when(here).then(pl.lit(value, frame.schema[column])).otherwise(pl.col(column)).alias(column)
    )


def without(frame: pl.DataFrame, row: int) -> pl.DataFrame:
    """The same frame less one row."""
    return frame.filter(pl.int_range(pl.len()) != row)


def shuffled(frame: pl.DataFrame, seed: int) -> pl.DataFrame:
    """The same rows in another order."""
    return frame.sample(fraction=1.0, shuffle=True, seed=seed)


def recorded(file: Path, market: Market) -> pl.DataFrame:
    """Recorded real bars as captured ones. What the file lacks is filled: no taker volume, one trade where there is volume.

    The exchange's ids (`BTCUSDT`, `AAVEBTC`) end with their quote asset.
    """
    settle = r"$1/$2:$2" if market is Market.FUTURES else r"$1/$2"
    filled = {
        "quote_volume": pl.col("volume") * pl.col("close"),
        "count": (pl.col("volume") > 0).cast(pl.Int64),
        "taker_buy_volume": pl.lit(0.0),
        "taker_buy_quote_volume": pl.lit(0.0),
    }
    frame = pl.read_parquet(file)
    return (
        frame.with_columns(
            pl.col("symbol").str.replace(r"^(.+)(USDT|BTC)$", settle),
            *[expression.alias(name) for name, expression in filled.items() if name not in frame.columns],
            market=pl.lit(market.value),
            end_download_timestamp=pl.lit(DOWNLOADED, CAPTURED_SCHEMA["end_download_timestamp"]),
        )
        .rename({"open_time": "timestamp", "count": "trade_count"})
        .select(list(CAPTURED_SCHEMA))
        .sort(KEY)
    )
