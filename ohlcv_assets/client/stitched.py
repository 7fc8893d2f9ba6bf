"""Bars of both stores in one answer: the lake for finished days, the database for the rest, each bar once.

Lives here: which store answers for a symbol and UTC day. Does not: the reading of either. One store answers for a whole day of a
symbol, so that no bar comes twice and no seam lies inside a day:

    the day is in the lake and has a ledger    the lake, unless the stream has more of the day's bars
    the day is in the lake, without a ledger   the database, and the lake where the database has nothing
    the day is not in the lake (today)         the database
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import date

import polars as pl

from ohlcv_assets.client.daily import DailyBars, empty
from ohlcv_assets.client.question import Question
from ohlcv_assets.errors import DayMissing
from ohlcv_assets.timestamps import DAY_MS, Interval, day_start_ms

#: The one column that says where a bar comes from: `daily` (the lake) or `streamed` (the database).
SOURCE = "source"
_PAIR = ("symbol", "day")
_DAY = (pl.col("timestamp") // DAY_MS).alias("day")
ReadStreamed = Callable[[Question], pl.DataFrame]


def stitched(
    question: Question,
    columns: Sequence[str],
    daily: DailyBars,
    ranges: pl.DataFrame,
    read_streamed: ReadStreamed | None,
    *,
    skip: bool = False,
) -> pl.DataFrame:
    """The bars of the interval: `symbol`, `timestamp`, these columns and `source`, sorted by symbol and time.

    Args:
        question: which bars.
        columns: of `SCHEMA`.
        daily: the lake's bars.
        ranges: what the ledger says of them (`verified.RANGES`).
        read_streamed: reads bars of the database; None where there is none.
        skip: whether a day of which neither store has any bar is left out.

    Raises:
        DayMissing: a day of which neither store has any bar; where there is no database, one that is not in the lake.
    """
    there = set(daily.days())
    in_lake = [day for day in question.days if day in there and daily.knew(day, question)]
    if read_streamed is None:
        return _marked(daily.read(question, columns, in_lake if skip else None), "daily")
    whole = _pairs(question, in_lake).join(_better_in_lake(ranges), on=_PAIR, how="semi")
    lake = _of_pairs(_from_lake(question, columns, daily, whole), whole)
    rest = _pairs(question, question.days).join(whole, on=_PAIR, how="anti")
    streamed = _of_pairs(_from_database(question, columns, rest, read_streamed), rest)
    left = rest.join(streamed.with_columns(_DAY), on=_PAIR, how="anti").join(
        _pairs(question, in_lake), on=_PAIR, how="semi"
    )
    other = _of_pairs(_from_lake(question, columns, daily, left), left)
    bars = pl.concat([_marked(lake, "daily"), _marked(streamed, "streamed"), _marked(other, "daily")])
    if not skip:
        _refuse_empty_days(question, bars)
    return bars.sort("symbol", "timestamp")


def _better_in_lake(ranges: pl.DataFrame) -> pl.DataFrame:
    """The symbols and days of which, by the ledger, the stream has no more bars than the lake."""
    minutes = pl.col("end") - pl.col("start")
    counted = ranges.group_by("symbol", (pl.col("start") // DAY_MS).alias("day")).agg(
        minutes.filter(pl.col("state") == "streamed_only").sum().alias("streamed_only"),
        minutes.filter(pl.col("state") == "fetched_only").sum().alias("fetched_only"),
    )
    return counted.filter(pl.col("streamed_only") <= pl.col("fetched_only"))


def _pairs(question: Question, days: Sequence[date]) -> pl.DataFrame:
    """Each symbol with each of these days."""
    names = pl.DataFrame({"symbol": [str(symbol) for symbol in question.symbols]}, schema={"symbol": pl.String})
    numbers = [day_start_ms(day) // DAY_MS for day in days]
    return names.join(pl.DataFrame({"day": numbers}, schema={"day": pl.Int64}), how="cross")


def _from_lake(question: Question, columns: Sequence[str], daily: DailyBars, pairs: pl.DataFrame) -> pl.DataFrame:
    numbers = set(pairs["day"])
    days = [day for day in question.days if day_start_ms(day) // DAY_MS in numbers]
    return daily.read(question, columns, days) if days else empty(columns)


def _from_database(
    question: Question, columns: Sequence[str], pairs: pl.DataFrame, read_streamed: ReadStreamed
) -> pl.DataFrame:
    """One query from the first to the last of the days."""
    if pairs.is_empty():
        return empty(columns)
    first, last = pairs.select(first=pl.col("day").min(), last=pl.col("day").max()).row(0)
    part = question.interval.intersect(Interval(first * DAY_MS, (last + 1) * DAY_MS)) or question.interval
    named = set(pairs["symbol"])
    symbols = tuple(symbol for symbol in question.symbols if symbol in named)
    bars = read_streamed(Question(question.market, symbols, part, question.as_of))
    return bars.select(list(dict.fromkeys(["symbol", "timestamp", *columns])))


def _of_pairs(bars: pl.DataFrame, pairs: pl.DataFrame) -> pl.DataFrame:
    return bars.with_columns(_DAY).join(pairs, on=_PAIR, how="semi").drop("day")


def _marked(bars: pl.DataFrame, source: str) -> pl.DataFrame:
    return bars.with_columns(pl.lit(source).alias(SOURCE))


def _refuse_empty_days(question: Question, bars: pl.DataFrame) -> None:
    """A hole of a whole day is no answer, unless nothing follows it: the present day has no bars of later on."""
    if bars.is_empty():
        return
    there = set((bars["timestamp"] // DAY_MS).unique())
    last = max(there)
    missing = [day for day in question.days if day_start_ms(day) // DAY_MS not in there]
    holes = [day for day in missing if day_start_ms(day) // DAY_MS < last]
    if holes:
        more = f" and {len(holes) - 1} more days" if len(holes) > 1 else ""
        raise DayMissing(
            f"neither store has a {question.market} bar of {holes[0]}{more}",
            hint='download those days, or read what is there by on_missing="skip"',
        )
