"""The kline fields that a file of bars lacks, derived from the fields that it has: the only place that does so.

Many recordings keep only open, high, low, close and volume. The replay exchange must serve all eleven fields, so the
others are made up here, from the recording alone and always the same:

    quote_volume            volume times the mean of open, high, low and close
    trade_count             1 + the integer part of sqrt(quote_volume); 0 where there is no volume
    taker_buy_volume        volume times 0.5 + 0.4 (close - open) / (high - low): the more the bar rose, the more
    taker_buy_quote_volume  quote_volume times the taker's share of the volume

Amounts are cut to the symbol's own grid, the fewest decimals that write all its volumes (for quote amounts: all its
prices and volumes together), eight at most. Each field is derived only when its column is absent, and every derived
bar obeys `bars.INVARIANTS`. Only IEEE basic operations and the square root are used, so that every machine derives
the same bits; and numpy, because polars divides by a constant by multiplying with its reciprocal, which is not
the nearest double.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

#: Binance's finest grid.
MOST_DECIMALS = 8

_PRICES = ("open", "high", "low", "close")

_Floats = NDArray[np.float64]
_Bars = dict[str, NDArray[Any]]


def complete(frame: pl.DataFrame) -> pl.DataFrame:
    """The frame with all nine value columns.

    Args:
        frame: bars with symbol, open, high, low, close and volume (float64) and any of the other value columns.

    Returns:
        The same rows; columns that were there are untouched.
    """
    units = frame.select("symbol").join(_units(frame), on="symbol", how="left", maintain_order="left")
    volume_unit, quote_unit = units["volume_unit"].to_numpy(), units["quote_unit"].to_numpy()
    bars = {name: frame[name].to_numpy() for name in (*_PRICES, "volume")}
    for name, derive in (
        ("quote_volume", lambda: _quote_volume(bars, quote_unit)),
        ("trade_count", lambda: _trade_count(bars)),
        ("taker_buy_volume", lambda: _taker_buy_volume(bars, volume_unit)),
        ("taker_buy_quote_volume", lambda: _taker_buy_quote_volume(bars, quote_unit)),
    ):
        with np.errstate(invalid="ignore", over="ignore"):  # what is no number is refused by whoever reads the bars
            bars[name] = frame[name].to_numpy() if name in frame.columns else derive()
    return frame.with_columns(pl.Series(name, bars[name]) for name in bars if name not in frame.columns)


def _quote_volume(bars: _Bars, unit: _Floats) -> _Floats:
    mean_price = (bars["open"] + bars["high"] + bars["low"] + bars["close"]) / 4
    return _cut(bars["volume"] * mean_price, unit)


def _trade_count(bars: _Bars) -> NDArray[np.int64]:
    return np.where(bars["volume"] > 0, 1 + np.sqrt(bars["quote_volume"]), 0).astype(np.int64)


def _taker_buy_volume(bars: _Bars, unit: _Floats) -> _Floats:
    reach = bars["high"] - bars["low"]
    rise = (bars["close"] - bars["open"]) / np.where(reach > 0, reach, 1)
    return np.minimum(_cut(bars["volume"] * (0.5 + 0.4 * rise), unit), bars["volume"])


def _taker_buy_quote_volume(bars: _Bars, unit: _Floats) -> _Floats:
    share = bars["taker_buy_volume"] / np.where(bars["volume"] > 0, bars["volume"], 1)
    return np.minimum(_cut(bars["quote_volume"] * share, unit), bars["quote_volume"])


def _cut(amount: _Floats, unit: _Floats) -> _Floats:
    """The amount cut to a whole number of units."""
    return np.floor(amount * unit) / unit


def grid_decimals(columns: list[NDArray[np.float64]]) -> int:
    """The fewest decimals, at most eight, that write every value of the columns.

    A double is the nearest to a decimal of d places exactly when scaling by 10^d, rounding and dividing gives it back;
    beyond 2^53 units the question has no answer and eight is given.
    """
    for decimals in range(MOST_DECIMALS):
        unit = 10.0**decimals
        if all(bool(np.all(np.rint(column * unit) / unit == column)) for column in columns):
            return decimals
    return MOST_DECIMALS


def _units(frame: pl.DataFrame) -> pl.DataFrame:
    """Ten to the decimals of each symbol's volumes and quote amounts: `symbol, volume_unit, quote_unit`."""
    rows = []
    for (symbol,), bars in frame.partition_by("symbol", as_dict=True).items():
        price = grid_decimals([bars[name].to_numpy() for name in _PRICES])
        volume = grid_decimals([bars["volume"].to_numpy()])
        rows.append((symbol, 10.0**volume, 10.0 ** min(price + volume, MOST_DECIMALS)))
    return pl.DataFrame(
        rows, schema={"symbol": pl.String, "volume_unit": pl.Float64, "quote_unit": pl.Float64}, orient="row"
    )
