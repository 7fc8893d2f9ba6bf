"""The kline fields that a file of bars lacks, derived from the fields that it has: the only place that does so.

Many recordings keep only open, high, low, close and volume. The replay exchange must serve all eleven fields, so the
others are made up here, from the bar alone and always the same:

    quote_volume            volume times the mean of open, high, low and close
    trade_count             1 + the integer part of sqrt(quote_volume); 0 where there is no volume
    taker_buy_volume        volume times 0.5 + 0.4 (close - open) / (high - low): the more the bar rose, the more
    taker_buy_quote_volume  quote_volume times the taker's share of the volume

Amounts are cut to the symbol's own grid, the fewest decimals that write all its volumes (for quote amounts: all its
prices and volumes together), eight at most. Each field is derived only when its column is absent, and every derived
bar obeys `bars.INVARIANTS`. Only IEEE basic operations and the square root are used, so that every machine derives
the same bits.
"""

from __future__ import annotations

from functools import reduce

import polars as pl

#: Binance's finest grid.
MOST_DECIMALS = 8

_PRICES = ("open", "high", "low", "close")


def complete(frame: pl.DataFrame) -> pl.DataFrame:
    """The frame with all nine value columns.

    Args:
        frame: bars with symbol, open, high, low, close and volume (float64) and any of the other value columns.

    Returns:
        The same rows; columns that were there are untouched.
    """
    units = frame.select(_unit("volume").alias("volume_unit"), _quote_unit().alias("quote_unit"))
    frame = frame.hstack(units)
    for name, expression in _RECIPES.items():
        if name not in frame.columns:
            frame = frame.with_columns(expression.alias(name))
    return frame.drop(units.columns)


def _unit(*columns: str) -> pl.Expr:
    """Ten to the fewest decimals that write every value of the columns, symbol by symbol."""
    finest = pl.lit(10.0**MOST_DECIMALS)
    return reduce(
        lambda otherwise, decimals: pl.when(_on_grid(columns, decimals)).then(10.0**decimals).otherwise(otherwise),
        range(MOST_DECIMALS - 1, -1, -1),
        finest,
    )


def _on_grid(columns: tuple[str, ...], decimals: int) -> pl.Expr:
    unit = 10.0**decimals
    return pl.all_horizontal((pl.col(*columns) * unit).round() / unit == pl.col(*columns)).all().over("symbol")


def _quote_unit() -> pl.Expr:
    return pl.min_horizontal(_unit(*_PRICES) * _unit("volume"), 10.0**MOST_DECIMALS)


def _cut(amount: pl.Expr, unit: str) -> pl.Expr:
    """The amount cut to a whole number of units."""
    return (amount * pl.col(unit)).floor() / pl.col(unit)


_MEAN_PRICE = (pl.col("open") + pl.col("high") + pl.col("low") + pl.col("close")) / 4
_RANGE = pl.col("high") - pl.col("low")
_TAKER_SHARE = pl.when(_RANGE > 0).then(0.5 + 0.4 * (pl.col("close") - pl.col("open")) / _RANGE).otherwise(0.5)
_TAKER_QUOTE = _cut(pl.col("quote_volume") * (pl.col("taker_buy_volume") / pl.col("volume")), "quote_unit")
_TRADED = pl.col("volume") > 0

# In the order of derivation: later recipes read earlier columns.
_RECIPES: dict[str, pl.Expr] = {
    "quote_volume": _cut(pl.col("volume") * _MEAN_PRICE, "quote_unit"),
    "trade_count": pl.when(_TRADED).then(1 + pl.col("quote_volume").sqrt().floor()).otherwise(0).cast(pl.Int64),
    "taker_buy_volume": pl.min_horizontal(_cut(pl.col("volume") * _TAKER_SHARE, "volume_unit"), "volume"),
    "taker_buy_quote_volume": pl.when(_TRADED).then(pl.min_horizontal(_TAKER_QUOTE, "quote_volume")).otherwise(0.0),
}
