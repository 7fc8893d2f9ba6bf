"""The bar: its columns, dtypes, key and invariants. Every other schema in the package is derived from here.

Lives here: `COLUMNS` and what follows from it for polars, pyarrow and SQL; the list of invariants that a bar
must obey, each with a name and a sentence. Does not: the exchange's wire form of a bar (exchange/klines.py), or
completeness, which is a property of a set of bars against a grid (quality/completeness.py).

A bar of the minute [a, a + 60,000 ms) carries `timestamp = a`, exactly as Binance sends it: the label is the
interval's start, everywhere but in the client. The eleventh field of a Binance kline, its close time, is always
`timestamp + 59,999`: it is checked when a bar is parsed and not stored.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import TYPE_CHECKING, NamedTuple

import polars as pl

from ohlcv_assets.errors import InvalidBars
from ohlcv_assets.timestamps import MINUTE_MS, iso

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True)
class Column:
    """One column of a bar: its name, its dtype in polars and in PostgreSQL, its unit, and what it means."""

    name: str
    dtype: pl.DataType
    sql: str
    unit: str
    meaning: str


_UTC_MICROSECONDS = pl.Datetime("us", "UTC")

COLUMNS: tuple[Column, ...] = (
    Column("market", pl.String(), "text", "", "spot or futures"),
    Column("symbol", pl.String(), "text", "", "CCXT unified symbol: BTC/USDT, BTC/USDT:USDT"),
    Column("timestamp", pl.Int64(), "bigint", "ms", "start of the interval, UNIX milliseconds, as the exchange sends it"),
    Column("open", pl.Float64(), "double precision", "quote asset", "price of the first trade"),
    Column("high", pl.Float64(), "double precision", "quote asset", "highest price"),
    Column("low", pl.Float64(), "double precision", "quote asset", "lowest price"),
    Column("close", pl.Float64(), "double precision", "quote asset", "price of the last trade"),
    Column("volume", pl.Float64(), "double precision", "base asset", "amount traded"),
    Column("quote_volume", pl.Float64(), "double precision", "quote asset", "amount traded times price"),
    Column("trade_count", pl.Int64(), "bigint", "trades", "number of trades"),
    Column("taker_buy_volume", pl.Float64(), "double precision", "base asset", "part of volume whose buyer was the taker"),
    Column("taker_buy_quote_volume", pl.Float64(), "double precision", "quote asset", "part of quote_volume whose buyer was the taker"),
    Column("end_download_timestamp", _UTC_MICROSECONDS, "timestamptz", "us", "when the answer entered this process, by its own clock"),
    Column("knowledge_timestamp", _UTC_MICROSECONDS, "timestamptz", "us", "when the store took the bar, by the store's clock"),
)  # fmt: skip

#: A bar is one row a key; the exchange's values are everything that a second capture must agree on.
KEY: tuple[str, ...] = ("market", "symbol", "timestamp")
VALUES: tuple[str, ...] = tuple(column.name for column in COLUMNS[3:12])

SCHEMA: dict[str, pl.DataType] = {column.name: column.dtype for column in COLUMNS}
#: A bar that no store has taken yet: everything but `knowledge_timestamp`.
CAPTURED_SCHEMA: dict[str, pl.DataType] = {
    name: dtype for name, dtype in SCHEMA.items() if name != "knowledge_timestamp"
}
SQL_TYPES: dict[str, str] = {column.name: column.sql for column in COLUMNS}


def arrow_schema() -> pa.Schema:
    """The pyarrow schema of a stored bar, with each column's unit and meaning as the field's metadata.

    pyarrow is imported here and not above: a reader that never asks for Arrow does not wait for it.
    """
    import pyarrow as pa

    arrow_types = {
        pl.String(): pa.string(),
        pl.Int64(): pa.int64(),
        pl.Float64(): pa.float64(),
        _UTC_MICROSECONDS: pa.timestamp("us", tz="UTC"),
    }
    return pa.schema(
        pa.field(column.name, arrow_types[column.dtype], metadata={"unit": column.unit, "meaning": column.meaning})
        for column in COLUMNS
    )


class Channel(StrEnum):
    """How a bar came: stored beside it, and no part of its value."""

    WEBSOCKET = "websocket"
    REST = "rest"


class Bar(NamedTuple):
    """One captured bar, a row of `CAPTURED_SCHEMA`, in its order."""

    market: str
    symbol: str
    timestamp: int
    open: float
    high: float
    low: float
    close: float
    volume: float
    quote_volume: float
    trade_count: int
    taker_buy_volume: float
    taker_buy_quote_volume: float
    end_download_timestamp: datetime


def captured_frame(bars: Sequence[Bar]) -> pl.DataFrame:
    """A frame of `CAPTURED_SCHEMA` with one row a bar, in the order given (empty for no bars)."""
    return pl.DataFrame(list(bars), schema=CAPTURED_SCHEMA, orient="row")


def conform(frame: pl.DataFrame) -> pl.DataFrame:
    """The columns of a bar that the frame has, in the bar's order, with exactly the bar's dtypes.

    Raises:
        InvalidBars: a value or key column is absent, or a dtype is another one (nothing is cast: a cast can
            lose digits).
    """
    missing = [name for name in (*KEY, *VALUES) if name not in frame.columns]
    wrong = {
        name: frame.schema[name]
        for name, dtype in SCHEMA.items()
        if name in frame.columns and frame.schema[name] != dtype
    }
    if missing or wrong:
        raise InvalidBars(
            f"these are no bars: columns missing {missing}, of another dtype {wrong}",
            hint="see docs/reference/bars.md",
        )
    return frame.select([name for name in SCHEMA if name in frame.columns])


@dataclass(frozen=True)
class Invariant:
    """A sentence that is true of every bar, and the polars expression that says so of a row.

    Where the expression gives null, the invariant does not hold.
    """

    name: str
    sentence: str
    holds: pl.Expr


#: Binance opened in 2017; a timestamp before 2010 or after 2100 is in the wrong unit.
EARLIEST_MS, LATEST_MS = 1_262_304_000_000, 4_102_444_800_000
_PRICES = ("open", "high", "low", "close")
_AMOUNTS = ("volume", "quote_volume", "taker_buy_volume", "taker_buy_quote_volume")

INVARIANTS: tuple[Invariant, ...] = (
    Invariant("complete", "no key and no value is null", pl.all_horizontal(pl.col(*KEY, *VALUES).is_not_null())),
    Invariant("on_the_grid", "timestamp is a whole minute", pl.col("timestamp") % MINUTE_MS == 0),
    Invariant(
        "in_milliseconds", "timestamp lies between 2010 and 2100", pl.col("timestamp").is_between(EARLIEST_MS, LATEST_MS)
    ),
    Invariant("prices_positive", "every price is finite and above zero", pl.all_horizontal(pl.col(*_PRICES).is_finite() & (pl.col(*_PRICES) > 0))),
    Invariant("high_is_highest", "high is no lower than open, low and close", pl.all_horizontal((pl.col("high") >= pl.col("open", "low", "close")) | pl.col("open", "low", "close").is_nan())),
    Invariant("low_is_lowest", "low is no higher than open, high and close", pl.all_horizontal(pl.col("low") <= pl.col("open", "high", "close"))),
    Invariant("amounts_not_negative", "every volume is finite and not negative", pl.all_horizontal(pl.col(*_AMOUNTS).is_finite() & (pl.col(*_AMOUNTS) >= 0))),
    Invariant("trade_count_not_negative", "trade_count is not negative", pl.col("trade_count") >= 0),
    Invariant("no_trade_no_volume", "a minute without a trade has no volume", (pl.col("trade_count") > 0) | ((pl.col("volume") == 0) & (pl.col("quote_volume") == 0))),
    Invariant(
        "taker_part_of_whole",
        "the taker's part is no larger than the whole",
        (pl.col("taker_buy_volume") <= pl.col("volume")) & (pl.col("taker_buy_quote_volume") <= pl.col("quote_volume")),
    ),
)  # fmt: skip


def violations(frame: pl.DataFrame) -> pl.DataFrame:
    """Every broken invariant, one row each: `invariant, market, symbol, timestamp`.

    Args:
        frame: rows with the key and value columns of a bar.
    """
    broken = [
        frame.filter(~invariant.holds.fill_null(value=False)).select(pl.lit(invariant.name).alias("invariant"), *KEY)
        for invariant in INVARIANTS
    ]
    return pl.concat(broken)


def validate(frame: pl.DataFrame) -> pl.DataFrame:
    """The frame itself, conformed, when every bar in it obeys every invariant.

    Raises:
        InvalidBars: names the first broken invariants and where; the caller keeps the frame.
    """
    frame = conform(frame)
    broken = violations(frame)
    if broken.is_empty():
        return frame
    first = "; ".join(
        f"{row['symbol']} {iso(row['timestamp']) if row['timestamp'] is not None else 'null'}: {row['invariant']}"
        for row in broken.head(5).iter_rows(named=True)
    )
    raise InvalidBars(
        f"{broken.height} broken invariants in {frame.height} bars: {first}",
        hint="see docs/reference/bars.md",
    )
