"""The bars of the database.

Lives here: what a question means to the database. Does not: SQL or sessions (storage/database.py), or which store answers
(stitched.py).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import polars as pl

from ohlcv_assets.client.daily import empty
from ohlcv_assets.client.question import Question

if TYPE_CHECKING:
    from ohlcv_assets.storage.database import Database
    from ohlcv_assets.storage.statements import Span

COUNTS: dict[str, pl.DataType] = {"symbol": pl.String(), "day": pl.Int64(), "bars": pl.Int64()}
#: A statement asks for so many spans: each is planned on its own, and a statement's answer is held with all its columns.
_SPANS_AT_ONCE = 100


@dataclass(frozen=True)
class StreamedBars:
    """What was streamed, or filled in later, of every market."""

    database: Database

    def read(self, questions: Sequence[Question], columns: Sequence[str]) -> pl.DataFrame:
        """The bars of each interval: `symbol`, `timestamp` and these columns of `SCHEMA`, sorted by both.

        Args:
            questions: of one market and moment; no bar is asked for twice. Many of them are few statements.
            columns: further columns.
        """
        names = list(dict.fromkeys(["symbol", "timestamp", *columns]))
        parts = [
            self.database.read_spans(some[0].market, _spans(some), as_of=some[0].as_of).select(names)
            for some in _batches(questions)
        ]
        if len(parts) == 1:
            return parts[0]
        return pl.concat([empty(columns), *parts]).sort("symbol", "timestamp")

    def counts(self, questions: Sequence[Question]) -> pl.DataFrame:
        """How many bars there are of each symbol and day of the intervals: `COUNTS`; no row where there is none."""
        parts = [
            self.database.counts(some[0].market, _spans(some), as_of=some[0].as_of) for some in _batches(questions)
        ]
        return pl.concat([pl.DataFrame(schema=COUNTS), *(part.cast(COUNTS) for part in parts)])  # type: ignore[arg-type]  # the schema of a frame is a mapping of columns to types


def _batches(questions: Sequence[Question]) -> Iterator[Sequence[Question]]:
    for first in range(0, len(questions), _SPANS_AT_ONCE):
        yield questions[first : first + _SPANS_AT_ONCE]


def _spans(questions: Sequence[Question]) -> list[Span]:
    return [(question.interval, question.symbols) for question in questions]
