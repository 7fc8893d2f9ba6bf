"""Whole days that are not there: a shorter answer is none, unless it was asked for.

Lives here: which days of a question must be there, and the error that names those that are not. Does not: the lake's own word on its
days (daily.py), or minutes (coverage.py). A day must be there when it is over and one of the symbols was listed in it: of today
nobody has all, and of later on nobody has anything.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from datetime import date

import polars as pl

from ohlcv_assets.client.minutes import expected_runs
from ohlcv_assets.client.question import Question
from ohlcv_assets.client.streamed import StreamedBars
from ohlcv_assets.clock import utc_now
from ohlcv_assets.errors import DayMissing
from ohlcv_assets.instruments import Universe
from ohlcv_assets.timestamps import DAY_MS, Interval, day_start_ms, floor_to, from_ms, to_ms

_WHO = {"streamed": "the database has no", "stitched": "neither store has a"}
_ASK = {"streamed": "read the source daily or stitched", "stitched": "download those days"}


def refuse_missing_days(
    question: Question,
    source: str,
    bars: pl.DataFrame,
    in_lake: Iterable[date],
    universe: Universe,
    streamed: StreamedBars,
) -> None:
    """Raise when a whole day is not there that must be; an answer without any bar is another error.

    Args:
        question: which bars were asked for.
        source: `streamed` or `stitched`.
        bars: the answer: `timestamp` and others.
        in_lake: days that the lake answers for: it has them, whatever is in them.
        universe: when each symbol was listed.
        streamed: asked for the rest of a day of which the interval is a part without bars.

    Raises:
        DayMissing: names the first day, and how many there are.
    """
    if bars.is_empty():
        return
    there = set((bars["timestamp"] // DAY_MS).unique()) | {day_start_ms(day) // DAY_MS for day in in_lake}
    lacking = [day for day in _needed(question, universe) if day not in there]
    ends = {question.interval.start_ms // DAY_MS, (question.interval.end_ms - 1) // DAY_MS}
    missing = [day for day in lacking if day not in ends or not _is_partly_there(question, day, streamed)]
    if missing:
        more = f" and {len(missing) - 1} more days" if len(missing) > 1 else ""
        first = from_ms(missing[0] * DAY_MS).date()
        raise DayMissing(
            f"{_WHO[source]} bar of {question.symbols_in_words} of {first}{more}",
            hint=f"{_ASK[source]}, fill the database by ohlcv backfill-db, or leave out what is not there: "
            'on_missing="skip" (--on-missing skip)',
        )


def _needed(question: Question, universe: Universe) -> Sequence[int]:
    """The days, counted from 1970-01-01, that are over and in which one of the symbols was listed, in order."""
    now = min(utc_now(), question.as_of) if question.as_of is not None else utc_now()
    runs = expected_runs(question, universe, floor_to(to_ms(now), DAY_MS))
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
