"""The minutes that are not there, on demand: the last price carried on, without volume, and marked as made up.

Lives here: which minutes are filled, and with what. Does not: filling when nobody asked, or hiding it: each filled bar has
`synthetic` true, and its times of download and knowledge are null.

A symbol is filled from its first real bar in the interval to the end of the interval, of its listing, or of the minutes that
are over by now, whichever comes first. Before its first bar there is no price to carry, and one listing says nothing of the next.
"""

from __future__ import annotations

from collections.abc import Iterator

import polars as pl

from ohlcv_assets.client.question import Question
from ohlcv_assets.instruments import Universe
from ohlcv_assets.timestamps import MINUTE_MS, Interval, floor_to

#: Whether a bar was made up: the column that says so.
SYNTHETIC = "synthetic"
_PRICES = ("open", "high", "low", "close")
_AMOUNTS = ("volume", "quote_volume", "trade_count", "taker_buy_volume", "taker_buy_quote_volume")
#: What filling needs, whatever was asked for.
NEEDED: tuple[str, ...] = ("close",)


def filled(bars: pl.DataFrame, question: Question, universe: Universe, now_ms: int) -> pl.DataFrame:
    """The bars, and between them one for every minute that is not there.

    Args:
        bars: `symbol`, `timestamp` (start, ms), `close` and any readable columns, sorted by both.
        question: whose interval is filled.
        universe: when each symbol was listed.
        now_ms: UNIX milliseconds; a minute that is not over is not filled.

    Returns:
        The same columns, then `synthetic` (Boolean). A made up bar has open, high, low and close at the last real close, no volume
        and no trades, and null in everything that nobody has captured.
    """
    parts = []
    for symbol in question.symbols:
        of_symbol = bars.filter(pl.col("symbol") == symbol) if len(question.symbols) > 1 else bars
        for listed in _listed(universe, symbol, question.interval, now_ms):
            inside = pl.col("timestamp").is_between(listed.start_ms, listed.end_ms, closed="left")
            parts.append(_without_gaps(of_symbol.filter(inside), listed.end_ms))
    real = bars.with_columns(pl.lit(value=False).alias(SYNTHETIC))
    if not parts:
        return real
    # A real bar outside of its listing stays: what is stored is never left out.
    rest = real.join(pl.concat(parts), on=["symbol", "timestamp"], how="anti")
    return pl.concat([*parts, rest]).sort("symbol", "timestamp")


def _listed(universe: Universe, symbol: str, interval: Interval, now_ms: int) -> Iterator[Interval]:
    """The parts of the interval in which the symbol was listed, until the last minute that is over."""
    end_ms = min(interval.end_ms, floor_to(now_ms, MINUTE_MS))
    times = next((times for name, times in universe.listings.items() if name == symbol), None)
    spans = [(None, None)] if times is None else [(span.since_ms, span.until_ms) for span in times.spans]
    for since_ms, until_ms in spans:
        first = interval.start_ms if since_ms is None else max(interval.start_ms, floor_to(since_ms, MINUTE_MS))
        last = end_ms if until_ms is None else min(end_ms, until_ms)
        if first < last:
            yield Interval(first, last)


def _without_gaps(bars: pl.DataFrame, end_ms: int) -> pl.DataFrame:
    """The bars of one symbol from the first on, and one for each minute up to the end that they lack."""
    if bars.is_empty():
        return bars.with_columns(pl.lit(value=False).alias(SYNTHETIC))
    minutes = pl.int_range(int(bars["timestamp"][0]), end_ms, MINUTE_MS, eager=True).alias("timestamp")
    grid = pl.DataFrame([minutes]).join(
        bars.with_columns(pl.lit(value=False).alias(SYNTHETIC)), on="timestamp", how="left"
    )
    made_up = pl.col(SYNTHETIC).is_null()
    carried = pl.col("close").forward_fill()
    constant = [name for name in ("symbol", "market") if name in bars.columns]
    return grid.sort("timestamp").select(
        *[
            pl.lit(bars[name][0]).alias(name)
            if name in constant
            else pl.when(made_up).then(carried).otherwise(pl.col(name)).alias(name)
            if name in _PRICES
            else pl.when(made_up).then(pl.lit(0, bars.schema[name])).otherwise(pl.col(name)).alias(name)
            if name in _AMOUNTS
            else pl.col(name)
            for name in bars.columns
        ],
        made_up.alias(SYNTHETIC),
    )
