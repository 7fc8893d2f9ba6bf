"""The bars of the database.

Lives here: what a question means to the database. Does not: SQL or sessions (storage/database.py), or which store answers
(stitched.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import polars as pl

from ohlcv_assets.client.question import Question

if TYPE_CHECKING:
    from ohlcv_assets.storage.database import Database

COUNTS: dict[str, pl.DataType] = {"symbol": pl.String(), "day": pl.Int64(), "bars": pl.Int64()}


@dataclass(frozen=True)
class StreamedBars:
    """What was streamed, or filled in later, of every market."""

    database: Database

    def read(self, question: Question, columns: Sequence[str]) -> pl.DataFrame:
        """The bars of the interval: `symbol`, `timestamp` and these columns of `SCHEMA`, sorted by both."""
        bars = self.database.read(question.market, question.interval, symbols=question.symbols, as_of=question.as_of)
        return bars.select(list(dict.fromkeys(["symbol", "timestamp", *columns])))

    def counts(self, question: Question) -> pl.DataFrame:
        """How many bars there are of each symbol and day of the interval: `COUNTS`; no row where there is none."""
        found = self.database.counts(question.market, question.interval, question.symbols, as_of=question.as_of)
        return found.cast(COUNTS)  # type: ignore[arg-type]  # the schema of a frame is a mapping of columns to types
