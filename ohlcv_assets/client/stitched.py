"""Bars of both stores in one answer: the lake for finished days, the database for the rest, each bar once.

Lives here: which store answers for a symbol and UTC day. Does not: the reading of either. One store answers for a whole day of a
symbol, so that no bar comes twice and no seam lies inside a day. Which one follows from what both have of that whole day, however
little of it is asked for:

    the day is not in the lake (today)    the database
    the day is in the lake                the lake, unless the database has more bars of that symbol and day

As many bars in both are the lake's. It was fetched when the day was over, its file proves its values, and the answer is then the
same before and after a ledger confirms the day.

Bars are counted in the database only where the lake does not have every minute of the day and the ledger does not say that there is
none to be had: of a day that two captures agree about the database is asked nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import date

import polars as pl

from ohlcv_assets.client.daily import DailyBars, empty
from ohlcv_assets.client.question import Question, number_of
from ohlcv_assets.client.streamed import StreamedBars
from ohlcv_assets.timestamps import DAY_MS, MINUTE_MS, Interval

#: The one column that says where a bar comes from: `daily` (the lake) or `streamed` (the database).
SOURCE = "source"
_PAIRS: dict[str, pl.DataType] = {"symbol": pl.String(), "day": pl.Int64()}
_PAIR = tuple(_PAIRS)
_DAY = (pl.col("timestamp") // DAY_MS).alias("day")
_WHOLE_DAY = DAY_MS // MINUTE_MS
#: Where the ledger says this of a minute the database has its bar and the lake has not, or may have got it since.
_NOT_IN_LAKE = ("streamed_only", "missing")
#: What the ledger says of a question's days (`verified.RANGES`).
ReadLedger = Callable[[Question], pl.DataFrame]


def stitched(
    question: Question,
    columns: Sequence[str],
    daily: DailyBars,
    in_lake: Sequence[date],
    streamed: StreamedBars,
    read_ledger: ReadLedger,
) -> pl.DataFrame:
    """The bars of the interval: `symbol`, `timestamp`, these columns and `source`, sorted by symbol and time.

    Args:
        question: which bars.
        columns: of `SCHEMA`.
        daily: the lake's bars.
        in_lake: the days of the interval that the lake has, or had at `as_of`.
        streamed: the database's bars.
        read_ledger: asked of days of which the lake has not every minute.
    """
    lake = daily.read(question, columns, in_lake) if in_lake else empty(columns)
    ahead = _ahead(question, _held(question, lake, daily, in_lake), streamed, read_ledger)
    rest = _rest(question, in_lake, ahead)
    others = streamed.read(list(_questions(question, rest)), columns)
    kept = (
        lake
        if ahead.is_empty()
        else lake.with_columns(_DAY).join(ahead, on=_PAIR, how="anti", maintain_order="left").drop("day")
    )
    if others.is_empty():  # the lake's bars are in order
        return _marked(kept, "daily")
    return pl.concat([_marked(kept, "daily"), _marked(others, "streamed")]).sort("symbol", "timestamp")


def _held(question: Question, lake: pl.DataFrame, daily: DailyBars, in_lake: Sequence[date]) -> pl.DataFrame:
    """How many bars of each whole day the lake has: `COUNTS`, a row for every symbol and day that it could have.

    Of a day that the interval cuts the keys are read once more, whole.
    """
    cut = [day for day in in_lake if question.interval.intersect(Interval.of_day(day)) != Interval.of_day(day)]
    keys = [lake.select("symbol", "timestamp").filter(~_DAY.is_in([number_of(day) for day in cut]))]
    keys += [daily.read(replace(question, interval=Interval.of_day(day)), [], [day]) for day in cut]
    counted = pl.concat(keys).group_by("symbol", _DAY).agg(pl.len().cast(pl.Int64).alias("bars"))
    names = pl.DataFrame({"symbol": [str(symbol) for symbol in question.symbols]}, schema={"symbol": pl.String})
    days = pl.DataFrame({"day": [number_of(day) for day in in_lake]}, schema={"day": pl.Int64})
    pairs = names.join(days, how="cross").join(counted, on=_PAIR, how="left")
    return pairs.with_columns(pl.col("bars").fill_null(0))


def _ahead(question: Question, held: pl.DataFrame, streamed: StreamedBars, read_ledger: ReadLedger) -> pl.DataFrame:
    """The `symbol` and `day` of which the database has more bars than the lake.

    What the ledger said at a moment of the past may be of other content than the lake had then: with `as_of` all is counted.
    """
    short = held.filter(pl.col("bars") < _WHOLE_DAY)
    if short.is_empty():
        return short.select(_PAIR)
    whole = _spanning(question, short)
    if question.as_of is None:
        short = short.join(_settled(read_ledger(whole)), on=_PAIR, how="anti")
    found = streamed.counts(list(_questions(whole, _by_day(short))))
    return (
        short.join(found, on=_PAIR, suffix="_streamed").filter(pl.col("bars_streamed") > pl.col("bars")).select(_PAIR)
    )


def _settled(ranges: pl.DataFrame) -> pl.DataFrame:
    """The `symbol` and `day` of which the ledger speaks whole, and says that the lake has every bar that there is."""
    told = ranges.group_by("symbol", (pl.col("start") // DAY_MS).alias("day")).agg(
        (pl.col("end") - pl.col("start")).sum().alias("told"),
        pl.col("state").is_in(_NOT_IN_LAKE).any().alias("lacks"),
    )
    return told.filter((pl.col("told") == DAY_MS) & ~pl.col("lacks")).select(_PAIR)


def _spanning(question: Question, pairs: pl.DataFrame) -> Question:
    """The symbols of the pairs, and whole days from the first to the last of them."""
    first, last = pairs.select(first=pl.col("day").min(), last=pl.col("day").max()).row(0)
    named = set(pairs["symbol"])
    symbols = tuple(symbol for symbol in question.symbols if symbol in named)
    return replace(question, symbols=symbols, interval=Interval(first * DAY_MS, (last + 1) * DAY_MS))


def _rest(question: Question, in_lake: Sequence[date], ahead: pl.DataFrame) -> dict[int, frozenset[str]]:
    """By day the symbols that the database answers for."""
    held, all_of_them = set(in_lake), frozenset(map(str, question.symbols))
    not_there = {number_of(day): all_of_them for day in question.days if day not in held}
    return not_there | _by_day(ahead)


def _by_day(pairs: pl.DataFrame) -> dict[int, frozenset[str]]:
    return {day: frozenset(names) for day, names in pairs.group_by("day").agg("symbol").iter_rows()}


def not_in_lake(question: Question, in_lake: Sequence[date]) -> list[Question]:
    """What the database alone can answer: the same symbols on the days that the lake has not."""
    return list(_questions(question, _rest(question, in_lake, pl.DataFrame(schema=_PAIRS))))


def _questions(question: Question, by_day: Mapping[int, frozenset[str]]) -> Iterator[Question]:
    """The question of these symbols and days, one for days on end of the same symbols."""
    days = sorted(by_day)
    firsts = [day for day in days if by_day.get(day - 1) != by_day[day]]
    lasts = [day for day in days if by_day.get(day + 1) != by_day[day]]
    for first, last in zip(firsts, lasts, strict=True):
        part = question.interval.intersect(Interval(first * DAY_MS, (last + 1) * DAY_MS))
        symbols = tuple(symbol for symbol in question.symbols if symbol in by_day[first])
        if part is not None:
            yield replace(question, symbols=symbols, interval=part)


def _marked(bars: pl.DataFrame, source: str) -> pl.DataFrame:
    return bars.with_columns(pl.lit(source).alias(SOURCE))
