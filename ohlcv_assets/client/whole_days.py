"""Whole days that are not there: a shorter answer is none, unless it was asked for.

Lives here: which days of a question must be there, and the error that names those that are not. Does not: the lake's own word on its
days (daily.py), or minutes (coverage.py). A day must be there when it is over and one of the symbols had a bar in it: of today nobody has all, of
later on nobody has anything, and no store can have a bar of a day in which all of them were halted or not listed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence, Set
from dataclasses import replace

import polars as pl

from ohlcv_assets.client import minutes
from ohlcv_assets.client.known import Known
from ohlcv_assets.client.question import Question
from ohlcv_assets.client.streamed import StreamedBars
from ohlcv_assets.client.verified import NOT_LISTED
from ohlcv_assets.clock import utc_now
from ohlcv_assets.errors import DayMissing
from ohlcv_assets.instruments import Universe
from ohlcv_assets.timestamps import DAY_MS, MINUTE_MS, Interval, floor_to, from_ms, to_ms

_WHO = {"streamed": "the database has no", "stitched": "neither store has a"}
_ASK = {"streamed": "read the source daily or stitched", "stitched": "download those days"}


#: Of minutes in these states of the ledger the exchange has no bar, unless the lake has it.
_NOTHING_TO_HAVE = ("halted", NOT_LISTED)


def refuse_missing_days(source: str, there: Set[int], known: Known, streamed: StreamedBars) -> None:
    """Raise when a whole day is not there that must be.

    Args:
        source: `streamed` or `stitched`.
        there: days, counted from 1970-01-01, of which there is a bar, or that the lake answers for, whatever is in them.
        known: what is known of the question, all symbols of it: a day that one of them has is there.
        streamed: asked for the rest of a day of which the interval is a part without bars.

    Raises:
        DayMissing: names the first day, and how many there are.
    """
    question = known.question
    lacking = [day for day in _needed(question, known.ledgers.universe) if day not in there]
    ends = {question.interval.start_ms // DAY_MS, (question.interval.end_ms - 1) // DAY_MS}
    missing = [day for day in lacking if day not in ends or not _is_partly_there(question, day, streamed)]
    # One is enough for the error: those after it are counted and not looked into, which takes a file or two each.
    while missing and not _had_something(missing[0], known):
        missing.pop(0)
    if missing:
        more = f" and {len(missing) - 1} more days" if len(missing) > 1 else ""
        first = from_ms(missing[0] * DAY_MS).date()
        raise DayMissing(
            f"{_WHO[source]} bar of {question.symbols_in_words} of {first}{more}",
            hint=f"{_ASK[source]}, fill the database by ohlcv backfill-db, or leave out what is not there: "
            'on_missing="skip" (--on-missing skip)',
        )


def _had_something(number: int, known: Known) -> bool:
    """Whether there was a bar to have in that day: not where the exchange halted, or listed none of the symbols, all day."""
    part = replace(known.question, interval=Interval(number * DAY_MS, (number + 1) * DAY_MS))
    if (in_lake := known.days_of(part)) and not known.daily.read(part, [], in_lake).is_empty():
        return True
    told = known.ledgers.ranges(part).filter(pl.col("state").is_in(_NOTHING_TO_HAVE)).select(list(minutes.RUNS))
    absent = known.daily.lake.read_absent(known.daily.signature, from_ms(part.interval.start_ms).date())
    start = pl.col("timestamp")
    nowhere = absent.select("symbol", start.alias("start"), (start + MINUTE_MS).alias("end"))
    expected = minutes.expected_runs(part, known.ledgers.universe, None)
    return not minutes.without(expected, pl.concat([told, nowhere])).is_empty()


def _needed(question: Question, universe: Universe) -> Sequence[int]:
    """The days, counted from 1970-01-01, that are over and in which one of the symbols was listed, in order."""
    now = min(utc_now(), question.as_of) if question.as_of is not None else utc_now()
    runs = minutes.expected_runs(question, universe, floor_to(to_ms(now), DAY_MS))
    spans = set(runs.select(pl.col("start") // DAY_MS, (pl.col("end") - 1) // DAY_MS).iter_rows())
    return sorted({day for first, last in _joined(sorted(spans)) for day in range(first, last + 1)})


def _joined(spans: Sequence[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """The same days in spans of which none overlaps another."""
    seen = None
    for first, last in spans:
        begin = first if seen is None else max(first, seen + 1)
        if begin <= last:
            yield begin, last
            seen = last


def _is_partly_there(question: Question, day: int, streamed: StreamedBars) -> bool:
    """Whether the database has bars of this day outside of the interval: then no whole day is missing."""
    whole = Interval(day * DAY_MS, (day + 1) * DAY_MS)
    if question.interval.intersect(whole) == whole:
        return False
    return not streamed.counts([replace(question, interval=whole)]).is_empty()
