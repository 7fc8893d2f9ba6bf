"""The newest bar of each symbol, in either store.

Lives here: how it is found without reading a day. Does not: whether it should be newer (quality/freshness.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import polars as pl

from ohlcv_assets.client.daily import DailyBars, empty
from ohlcv_assets.client.question import Question
from ohlcv_assets.instruments import Market, Symbol
from ohlcv_assets.timestamps import DAY_MS, HOUR_MS, MINUTE_MS, Interval

if TYPE_CHECKING:
    from ohlcv_assets.storage.database import Database

#: How far back is looked from the market's newest bar, step by step: nearly all symbols are in the first ten minutes.
_STEPS_MS = (10 * MINUTE_MS, HOUR_MS, DAY_MS, 7 * DAY_MS)


def newest_streamed(
    database: Database, market: Market, symbols: Sequence[Symbol], columns: Sequence[str]
) -> pl.DataFrame:
    """The newest bar of each symbol in the database: `symbol`, `timestamp` and the columns, sorted by symbol."""
    newest_ms = database.newest_ms(market)
    found = [empty(columns)]
    if newest_ms is None:
        return found[0]
    left, end_ms = set(map(str, symbols)), newest_ms + MINUTE_MS
    for step_ms in _STEPS_MS:
        start_ms = newest_ms + MINUTE_MS - step_ms
        bars = database.read(market, Interval(start_ms, end_ms), symbols=sorted(left)).select(found[0].columns)
        found.append(_newest(bars))
        left -= set(bars["symbol"])
        if not left:
            break
        end_ms = start_ms
    return pl.concat(found).sort("symbol")


def newest_stored(daily: DailyBars, symbols: Sequence[Symbol], columns: Sequence[str]) -> pl.DataFrame:
    """The newest bar of each symbol in the lake's last week of days: `symbol`, `timestamp` and the columns, sorted by symbol."""
    found, left = [empty(columns)], set(symbols)
    for day in daily.days()[:-8:-1]:
        if not left:
            break
        bars = daily.read(Question(daily.market, tuple(sorted(left)), Interval.of_day(day)), columns)
        found.append(_newest(bars))
        left -= set(map(Symbol, bars["symbol"].unique()))
    return pl.concat(found).sort("symbol")


def newer_of(parts: Sequence[pl.DataFrame]) -> pl.DataFrame:
    """Of the newest bars of several stores the newest of each symbol; of equally new ones the one of the first store."""
    newest_first = pl.concat(parts).sort("timestamp", descending=True, maintain_order=True)
    return newest_first.unique("symbol", keep="first", maintain_order=True).sort("symbol")


def _newest(bars: pl.DataFrame) -> pl.DataFrame:
    return bars.sort("symbol", "timestamp").group_by("symbol", maintain_order=True).last().select(bars.columns)
