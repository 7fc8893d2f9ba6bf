"""Longer bars from bars of a minute, exactly.

Lives here: the arithmetic of a window. Does not: which windows are meant (question.py), or reading. Windows are aligned to UTC
midnight. Open is the first minute's, high the highest, low the lowest, close the last one's, and amounts are sums.

Sums are exact: the sum is the double nearest to the sum of the decimals that the exchange sent, as if it had told the sum itself
(a plain sum of doubles is often off in the last digits). Amounts have at most eight decimals, so whole numbers of 1e-8 are added.
Where a value is too large for that (22 million), or has more digits, the shortest decimals that stand for the doubles are added.
"""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal

import numpy as np
import polars as pl
from numpy.typing import NDArray

from ohlcv_assets.bars import SCHEMA
from ohlcv_assets.client.question import Incomplete, Question
from ohlcv_assets.errors import IncompleteWindow
from ohlcv_assets.instruments import Universe
from ohlcv_assets.timestamps import MINUTE_MS, Interval

#: How many bars of a minute a window is made of: the column that says so.
COUNT = "bars"
_MIXED = "mixed"
_GRID = 1e8
#: Below this a double is nearer than a quarter of 1e-8 to its decimal, also when multiplied: rounding finds the whole number.
_EXACT_BELOW = 2**51 / _GRID
_AMOUNTS = ("volume", "quote_volume", "taker_buy_volume", "taker_buy_quote_volume")
_NAMED = 5
_OF_COLUMN: Mapping[str, pl.Expr] = {
    "open": pl.col("open").first(),
    "high": pl.col("high").max(),
    "low": pl.col("low").min(),
    "close": pl.col("close").last(),
    "trade_count": pl.col("trade_count").sum(),
    "end_download_timestamp": pl.col("end_download_timestamp").max(),
    "knowledge_timestamp": pl.col("knowledge_timestamp").max(),
    "market": pl.col("market").first(),
    "synthetic": pl.col("synthetic").any(),
}
_Array = NDArray[np.float64]


def resampled(bars: pl.DataFrame, length_ms: int) -> pl.DataFrame:
    """The bars of every window that holds at least one.

    Args:
        bars: `symbol`, `timestamp` (start, ms) and any readable columns, sorted by both.
        length_ms: of a window; divides a day.

    Returns:
        The same columns, `timestamp` the window's start; then `bars` (Int64): how many bars of a minute it is made of. Where minutes
        differ in `source` or `state` the window's is `mixed`.
    """
    window = (pl.col("timestamp") // length_ms * length_ms).alias("timestamp")
    grouped = bars.with_columns(window).group_by("symbol", "timestamp", maintain_order=True)
    others = [name for name in bars.columns if name not in {"symbol", "timestamp", *_AMOUNTS}]
    longer = grouped.agg(
        *[_OF_COLUMN[name].alias(name) if name in _OF_COLUMN else _one_or_mixed(name) for name in others],
        pl.len().cast(pl.Int64).alias(COUNT),
    )
    sums = {
        name: exact_sums(bars[name].to_numpy(), longer[COUNT].to_numpy()) for name in _AMOUNTS if name in bars.columns
    }
    added = longer.with_columns(pl.Series(name, values, SCHEMA[name]) for name, values in sums.items())
    return added.select(*bars.columns, COUNT)


def exact_sums(values: _Array, counts: NDArray[np.int64]) -> _Array:
    """The sums of consecutive groups of values, `counts[i]` of them each (at least one), right to the last digit."""
    starts = np.cumsum(counts) - counts
    if not len(counts):
        return np.zeros(0)
    whole = np.rint(np.where(np.abs(values) < _EXACT_BELOW, values, 0.0) * _GRID).astype(np.int64)
    off_grid = np.add.reduceat((whole / _GRID != values).astype(np.int64), starts) > 0
    totals = np.add.reduceat(whole, starts)
    # Below 2**53 a whole number is a double, and one division is rounded right; Python divides larger ones right.
    sums = totals / _GRID
    for place in np.flatnonzero((np.abs(totals) >= 2**53) & ~off_grid):
        sums[place] = int(totals[place]) / 10**8
    for place in np.flatnonzero(off_grid):
        of_window = values[starts[place] : starts[place] + counts[place]].tolist()
        sums[place] = float(sum(map(Decimal, map(repr, of_window))))
    return sums


def refuse_incomplete(
    question: Question,
    universe: Universe,
    windows: pl.DataFrame,
    length_ms: int,
    incomplete: Incomplete,
    *,
    filled: bool = False,
) -> pl.DataFrame:
    """The windows that are wanted: with `raise` all of them must be whole, with `drop` those that are, with `keep` all.

    A window is whole when it has a bar of every minute in which its symbol was listed.

    Raises:
        IncompleteWindow: names the first ones and says how many there are.
    """
    if incomplete == "keep":
        return windows
    full = length_ms // MINUTE_MS
    whole = windows.filter(pl.col(COUNT) == full)
    short = windows.filter(pl.col(COUNT) < full)
    listed = [
        count >= _listed_minutes(universe, symbol, Interval(start_ms, start_ms + length_ms))
        for symbol, start_ms, count in short.select("symbol", "timestamp", COUNT).iter_rows()
    ]
    partly = short.filter(pl.Series(listed, dtype=pl.Boolean))
    kept = pl.concat([whole, partly]).sort("symbol", "timestamp") if partly.height else whole
    if incomplete == "raise":
        _refuse(question, universe, windows, kept, length_ms, filled=filled)
    return kept


def _refuse(
    question: Question, universe: Universe, windows: pl.DataFrame, kept: pl.DataFrame, length_ms: int, *, filled: bool
) -> None:
    starts = range(question.interval.start_ms, question.interval.end_ms, length_ms)
    if kept.height == len(question.symbols) * len(starts):  # each of them once: none is left to look for
        return
    have: dict[str, set[int]] = {}
    for symbol, start_ms in kept.select("symbol", "timestamp").iter_rows():
        have.setdefault(symbol, set()).add(start_ms)
    counts = {(symbol, at): count for symbol, at, count in windows.select("symbol", "timestamp", COUNT).iter_rows()}
    short = []
    for symbol in question.symbols:
        for at in sorted(set(starts) - have.get(symbol, set())) if len(have.get(symbol, ())) < len(starts) else ():
            window = Interval(at, at + length_ms)
            if expected := _listed_minutes(universe, symbol, window):
                short.append(f"{symbol} {window} has {counts.get((symbol, at), 0)} of {expected} bars")
    if short:
        more = f"; and {len(short) - _NAMED} more" if len(short) > _NAMED else ""
        raise IncompleteWindow(
            f"{len(short)} of {len(question.symbols) * len(starts)} windows of {question} lack minutes: "
            f"{'; '.join(short[:_NAMED])}{more}",
            hint="leave them out by incomplete drop, take them with their count of bars by incomplete keep, or "
            + (
                "begin earlier: nothing is filled before a symbol's first bar, or that is not over"
                if filled
                else "fill forward"
            ),
        )


def _listed_minutes(universe: Universe, symbol: str, window: Interval) -> int:
    """How many minutes of the window the symbol was listed in."""
    times = next((times for name, times in universe.listings.items() if name == symbol), None)
    if times is None:
        return len(window.minutes)
    return sum(times.listed_at(minute) for minute in window.minutes)


def _one_or_mixed(name: str) -> pl.Expr:
    one = pl.col(name).n_unique() == 1
    return pl.when(one).then(pl.col(name).first()).otherwise(pl.lit(_MIXED)).alias(name)
