"""The bars of finished days, from the lake.

Lives here: which files a question needs, in which of their versions, and what is said when they are not there. Does not: the
inside of a file, or the proof of what was read (storage/day_reader.py).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date, datetime

import polars as pl

from ohlcv_assets.bars import SCHEMA
from ohlcv_assets.client.question import Question
from ohlcv_assets.errors import DayMissing
from ohlcv_assets.instruments import Market, Symbol, Universe
from ohlcv_assets.storage.day_reader import DaySource, Wanted, missing_days, read_days
from ohlcv_assets.storage.lake import Lake, Signature
from ohlcv_assets.timestamps import DAY_MS, day_start_ms

#: More days than this are looked up in a list of the lake before the first file is opened.
_MANY_DAYS = 1000


@dataclass(frozen=True)
class DailyBars:
    """The lake's bars of a market and universe."""

    lake: Lake
    market: Market
    universe: Universe

    @property
    def signature(self) -> Signature:
        """The dataset."""
        return Signature.daily(self.market, self.universe)

    def days(self) -> list[date]:
        """The UTC days that are in the lake, in order."""
        return self.lake.days(self.signature)

    def known_days(self, question: Question) -> list[date]:
        """The days of the interval that are in the lake, and were at `as_of`, in order."""
        first, last = question.first_and_last_day
        return [day for day in self.days() if first <= day <= last and self._knew(day, question.as_of)]

    def _knew(self, day: date, as_of: datetime | None) -> bool:
        return as_of is None or self.lake.versions(self.signature, day)[0].known_at <= as_of

    def read(self, question: Question, columns: Sequence[str], days: Sequence[date] | None = None) -> pl.DataFrame:
        """The bars of the interval: `symbol`, `timestamp` and these columns of `SCHEMA`, sorted by both.

        Args:
            question: which bars.
            columns: further columns.
            days: only these days of the interval; None for all.

        Raises:
            DayMissing: names days that are not in the lake, and says which ones are.
            NoBars: a day was not yet there at `as_of`.
            CorruptFile: a value is not what was written.
        """
        wanted = question.days if days is None else list(days)
        if len(wanted) > _MANY_DAYS:
            self.insist_on(wanted)
        names = tuple(dict.fromkeys(["symbol", "timestamp", *columns]))
        if question.as_of is None:
            frame = self._latest(wanted, question.symbols, names)
        else:
            frame = self._as_of(wanted, question, names)
        interval = question.interval
        if interval.start_ms % DAY_MS == 0 and interval.end_ms % DAY_MS == 0:  # whole days are as they were read
            return frame
        return frame.filter(pl.col("timestamp").is_between(interval.start_ms, interval.end_ms, closed="left"))

    def scan(self, question: Question, columns: Sequence[str]) -> pl.LazyFrame:
        """The same bars, read when collected; filters and columns are pushed down to the files, and nothing is verified."""
        wanted = question.days
        if len(wanted) > _MANY_DAYS:
            self.insist_on(wanted)
        try:
            scan = self.lake.scan(self.signature, wanted)
        except DayMissing as error:
            raise self._with_what_is_there(error) from error
        interval = question.interval
        if not self._is_everything(question.symbols):
            scan = scan.filter(pl.col("symbol").is_in(list(question.symbols)))
        inside = pl.col("timestamp").is_between(interval.start_ms, interval.end_ms, closed="left")
        return scan.filter(inside).select(list(dict.fromkeys(["symbol", "timestamp", *columns])))

    def insist_on(self, days: Sequence[date]) -> None:
        """Find out by one list of the lake which days are not in it: looking for each of ten centuries' files takes minutes.

        Raises:
            DayMissing: names the first of them, and says which ones are there.
        """
        there = set(self.days())
        missing = [day for day in days if day not in there]
        if missing:
            first = self.lake.location(self.signature.key(missing[0]))
            raise self._with_what_is_there(missing_days([first] * len(missing)))

    def _latest(self, days: Sequence[date], symbols: Sequence[Symbol], columns: tuple[str, ...]) -> pl.DataFrame:
        # Every symbol of the universe is every symbol of the file: then nothing need be filtered.
        asked = None if self._is_everything(symbols) else frozenset(map(str, symbols))
        wanted = Wanted(self.market.value, asked, columns)
        try:
            return read_days(self._sources(days), wanted, self.lake.scan_options())
        except DayMissing as error:
            raise self._with_what_is_there(error) from error

    def _as_of(self, days: Sequence[date], question: Question, columns: tuple[str, ...]) -> pl.DataFrame:
        """What was known then: the present files where they are old enough, and former versions of the others."""
        latest = self._latest(days, question.symbols, tuple(dict.fromkeys([*columns, "knowledge_timestamp"])))
        later = latest.filter(pl.col("knowledge_timestamp") > question.as_of)
        numbers = set((later["timestamp"] // DAY_MS).unique())
        former = [day for day in days if day_start_ms(day) // DAY_MS in numbers]
        if not former:
            return latest.select(columns)
        # Verified whole: a former version is read rarely.
        asked = pl.col("symbol").is_in(list(question.symbols))
        parts = [self.lake.read_day(self.signature, day, as_of=question.as_of).filter(asked) for day in former]
        kept = latest.filter(~(pl.col("timestamp") // DAY_MS).is_in(list(numbers)))
        return pl.concat([kept.select(columns), *(part.select(columns) for part in parts)]).sort(
            "symbol", "timestamp"
        )

    def _sources(self, days: Sequence[date]) -> list[DaySource]:
        signature = self.signature

        def whole(day: date) -> Callable[[], pl.DataFrame]:
            return lambda: self.lake.read_day(signature, day)

        return [DaySource(day, self.lake.location(signature.key(day)), whole(day)) for day in days]

    def _is_everything(self, symbols: Sequence[Symbol]) -> bool:
        return set(symbols) == set(self.universe.symbols[self.market])

    def _with_what_is_there(self, error: DayMissing) -> DayMissing:
        """The same error, and what could have been asked for instead."""
        there = self.days()
        if not there:
            return DayMissing(f"{error.message}: it holds no {self.market} day yet", hint=error.hint)
        return DayMissing(
            f"{error.message}: it holds {len(there)} {self.market} days, {there[0]} to {there[-1]}",
            hint="ask for those; of days that are not finished the sources stitched and streamed tell",
        )


def empty(columns: Sequence[str]) -> pl.DataFrame:
    """No bars: `symbol`, `timestamp` and these columns."""
    return pl.DataFrame(schema={name: SCHEMA[name] for name in dict.fromkeys(["symbol", "timestamp", *columns])})
