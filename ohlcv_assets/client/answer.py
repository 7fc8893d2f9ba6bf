"""The answer as it is handed out: the label first, then the symbol, then what was asked for.

Lives here: both ends of a bar's interval, the order of the columns, and the error of an empty answer. Does not: reading.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import polars as pl

from ohlcv_assets.client.question import ENDS, Question
from ohlcv_assets.errors import NoBars
from ohlcv_assets.timestamps import MINUTE_MS, label_end

_Frame = TypeVar("_Frame", pl.DataFrame, pl.LazyFrame)
END_DTYPE = pl.Datetime("ms", "UTC")


def labelled(
    bars: _Frame, label: str, columns: Sequence[str], flags: Sequence[str] = (), length_ms: int = MINUTE_MS
) -> _Frame:
    """The label, the symbol, the columns in this order, each once, then the flags."""
    names = dict.fromkeys([ENDS[label], "symbol", *columns, *flags])
    return bars.with_columns(**ends(length_ms)).select(list(names))


def ends(length_ms: int = MINUTE_MS) -> dict[str, pl.Expr]:
    """Both ends of the interval [timestamp, timestamp + length), as columns."""
    start = pl.col("timestamp")
    end = start + (label_end(0, length_ms))
    return {ENDS["start"]: start.cast(END_DTYPE), ENDS["end"]: end.cast(END_DTYPE)}


def of_ranges(ranges: pl.DataFrame, others: Sequence[str]) -> pl.DataFrame:
    """Ranges of minutes as people read them: `symbol, start, end` (`Datetime("ms", "UTC")`, half-open) and the others."""
    moments = [pl.col(name).cast(END_DTYPE).alias(name) for name in ("start", "end")]
    return ranges.select("symbol", *moments, *others)


def nothing(source: str, question: Question) -> NoBars:
    """The error of an answer without a bar."""
    known = f" that was known at {question.as_of.isoformat()}" if question.as_of else ""
    return NoBars(
        f"there is no {source} bar of {question}{known}",
        hint="ask for another interval or the other source, or download these bars first",
    )
