"""What is looked up once for a question that is answered in parts: the lake's days, and what the ledger says.

Lives here: looking up, and what of it concerns a part. Does not: the lists and ledgers themselves (daily.py, verified.py), or parts
(minutes.py). A lake is listed by thousands of keys, and a ledger is a file a day: each part would do it again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import date
from functools import cached_property

import polars as pl

from ohlcv_assets.client.daily import DailyBars
from ohlcv_assets.client.question import Question
from ohlcv_assets.client.verified import LedgerReader, clipped
from ohlcv_assets.timestamps import DAY_MS, Interval, floor_to


@dataclass(frozen=True)
class Known:
    """What is known of a question's days; each is looked up when it is first needed.

    Attributes:
        question: the whole of it.
        daily: the lake's bars.
        ledgers: the ledgers.
    """

    question: Question
    daily: DailyBars
    ledgers: LedgerReader

    @cached_property
    def days(self) -> Sequence[date]:
        """The days of the interval that the lake has, in order."""
        return self.daily.known_days(self.question)

    def days_of(self, part: Question) -> list[date]:
        """Those of them that a part of the question touches."""
        first, last = part.first_and_last_day
        return [day for day in self.days if first <= day <= last]

    def ledger_of(self, part: Question) -> pl.DataFrame:
        """What the ledger says of a part of the question, or of whole days of it: `verified.SAID`."""
        return clipped(self._ledger, part.interval)

    @cached_property
    def _ledger(self) -> pl.DataFrame:
        asked = self.question.interval
        whole = Interval(floor_to(asked.start_ms, DAY_MS), -floor_to(-asked.end_ms, DAY_MS))
        return self.ledgers.ranges(replace(self.question, interval=whole))
