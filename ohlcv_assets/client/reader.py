"""`OhlcvClient`: the bars.

Lives here: the methods that people call for bars, what is missing of them and what verified reads refuse, and the order in which their
parts do the work. Does not: the parts (their modules), or what else is known about the bars (knowledge.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import date, datetime

import polars as pl

from ohlcv_assets.bars import SCHEMA
from ohlcv_assets.client import coverage as counting
from ohlcv_assets.client import fill as filling
from ohlcv_assets.client import minutes as spans
from ohlcv_assets.client.answer import labelled, nothing, of_ranges
from ohlcv_assets.client.knowledge import Knowledge
from ohlcv_assets.client.known import Known
from ohlcv_assets.client.newest import newer_of, newest_stored, newest_streamed
from ohlcv_assets.client.question import (
    BESIDE,
    Fill,
    Incomplete,
    Label,
    MissingFrom,
    OnMissing,
    OnUnverified,
    Question,
    Source,
    columns_of,
    known_by,
    number_of,
    one_of,
    symbols_of,
    window_ms,
)
from ohlcv_assets.client.resample import COUNT, refuse_incomplete, resampled
from ohlcv_assets.client.stitched import SOURCE, stitched
from ohlcv_assets.client.stores import no_database
from ohlcv_assets.client.streamed import StreamedBars
from ohlcv_assets.client.verified import UNTIL, VERIFIED, as_compared, changed, refuse_unverified, with_states
from ohlcv_assets.client.whole_days import refuse_missing_days
from ohlcv_assets.clock import utc_now
from ohlcv_assets.errors import NoBars, UsageError
from ohlcv_assets.instruments import Market, Symbol
from ohlcv_assets.timestamps import DAY_MS, MINUTE_MS, Interval, day_start_ms, to_ms

_STORES = ("daily", "streamed")
_UNTIL_OF = {"daily": UNTIL[1:], "streamed": UNTIL[:1], "stitched": UNTIL}


class OhlcvClient(Knowledge):
    """Reads stored bars of one region, and what is known about them; opens a store when it is first needed.

    Args:
        settings: which region, lake, database and universe; by default what the environment says.
        lake_only: ask no database, also where there is one.
        first_contact_s: how many seconds a store is waited for as long as it has not answered once; None: a minute, as later.
    """

    def symbols(self, market: Market | str, at: date | datetime | str | None = None) -> list[Symbol]:
        """The symbols of the universe in a market, sorted; with `at` those that were listed at that moment."""
        wanted = Market.parse(market)
        moment = known_by(at)
        return list(self._universe.symbols[wanted] if moment is None else self._universe.at(moment)[wanted])

    def days(self, market: Market | str) -> list[date]:
        """The UTC days that are in the lake, in order."""
        return self._daily(Market.parse(market)).days()

    def read(
        self,
        symbols: str | Sequence[str] | None,
        start: date | datetime | str,
        end: date | datetime | str,
        *,
        market: Market | str,
        source: Source = "daily",
        label: Label = "end",
        columns: str | Sequence[str] | None = None,
        as_of: date | datetime | str | None = None,
        verified: bool = False,
        on_unverified: OnUnverified = "raise",
        resample: str | None = None,
        incomplete: Incomplete = "raise",
        fill: Fill | None = None,
        on_missing: OnMissing = "raise",
    ) -> pl.DataFrame:
        """The stored bars whose interval starts in [start, end); a bar that is not stored is not made up unless asked for.

        Args:
            symbols: one or more CCXT unified symbols of the universe (`BTC/USDT`, or `BTC/USDT:USDT` for futures) or
                patterns such as `*/USDT`; None for all of them.
            start: the first moment, a tz-aware datetime or an ISO 8601 text with a zone (a date, also as a text, is its
                UTC midnight).
            end: the moment after the last; a bar that starts at `end` is not part of the answer.
            market: `spot` or `futures`.
            source: `daily` for the finished days of the lake, `streamed` for the database, `stitched` for the lake where
                a day is finished and the database for the rest, and for a symbol and day of which it has more bars; one of
                them answers for a whole day of a symbol, each bar comes once.
            label: which end of [a, b) comes first: `end` gives `interval_end` = b, `start` gives `interval_start` = a.
            columns: which columns follow the label and the symbol, in this order: one or more of `READABLE`. By default the
                values: prices in the quote asset, volume in the base asset (docs/reference/bars.md).
            as_of: what was known at this moment, and nothing learnt later; by default the latest.
            verified: only bars that two captures agree about, by the ledger.
            on_unverified: `raise` when some expected minute is not verified, or `drop` it.
            resample: the length of longer bars: 3m, 5m, 15m, 30m, 1h, 2h, 4h, 6h, 8h, 12h or 1d. A column `bars` says how many
                bars of a minute each is made of.
            incomplete: `raise` when a window lacks minutes in which its symbol was listed, `drop` it, or `keep` it.
            fill: `forward` makes up the minutes that are not there from the last close; a column `synthetic` says so.
            on_missing: `raise` when a whole day is not there, or `skip` it. From the database only days that are over, and in
                which one of the symbols was listed and not halted all day, must be there.

        Returns:
            One row a bar, sorted by symbol and time: the label (`Datetime("ms", "UTC")`), `symbol`, the columns; then
            `synthetic` (Boolean) with `fill` and `bars` (Int64) with `resample`. `.to_pandas()` keeps the time zone.

        Raises:
            UsageError: a naive time, a reversed interval, an unknown market, symbol, column or choice.
            NoBars: nothing of this is stored, or nothing of it was known at `as_of`.
            DayMissing: some of the days are not there; names them, and what is there.
            NotVerified: minutes that are not verified; names them.
            IncompleteWindow: windows that lack minutes; names them.
            CorruptFile: a value in the lake is not what was written.
            TransientError: the store does not answer.
        """
        question = self._question(symbols, start, end, market, as_of)
        one_of("label", label, Label), one_of("incomplete", incomplete, Incomplete)
        one_of("on_unverified", on_unverified, OnUnverified)
        wanted = columns_of(columns)
        length_ms = MINUTE_MS if resample is None else window_ms(resample, question.interval)
        judged = verified or "state" in wanted
        needed = _needed([*wanted, "knowledge_timestamp"] if judged else wanted, fill)
        bars = self._bars(question, one_of("source", source, Source), needed, on_missing)
        if judged:
            bars = self._with_states(question, bars, verified, on_unverified)
        if bars.is_empty():
            raise nothing(source, question)
        flags: list[str] = []
        if fill is not None:
            one_of("fill", fill, Fill)
            bars = filling.filled(bars, question, self._universe, to_ms(utc_now()))
            flags.append(filling.SYNTHETIC)
        if resample is not None:
            windows = resampled(bars, length_ms)
            bars = refuse_incomplete(
                question, self._universe, windows, length_ms, incomplete, filled=fill is not None
            )
            flags.append(COUNT)
        return labelled(bars, label, wanted, flags, length_ms)

    def scan(
        self,
        symbols: str | Sequence[str] | None,
        start: date | datetime | str,
        end: date | datetime | str,
        *,
        market: Market | str,
        label: Label = "end",
        columns: str | Sequence[str] | None = None,
    ) -> pl.LazyFrame:
        """The lake's bars as a LazyFrame: filters and columns of the query are pushed down to the files.

        For what does not fit into memory, and for queries that need few rows. Nothing is verified, and the rows are sorted by
        symbol and time within each day alone, days in order. Arguments and columns are those of `read`; `source` and `state`
        cannot be scanned. Each collection reads the days as they are then; a day that cannot be read is a `CorruptFile`. The
        lazy frame stays in its process: hand the client to another one.

        Raises:
            UsageError: as `read`.
            DayMissing: some of the days are not in the lake.
        """
        question = self._question(symbols, start, end, market)
        wanted = columns_of(columns)
        if beside := [name for name in wanted if name in BESIDE]:
            raise UsageError(f"{beside[0]!r} cannot be scanned", hint="read() gives it")
        scan = self._daily(question.market).scan(question, _needed(wanted, None))
        return labelled(scan, one_of("label", label, Label), wanted)

    def last(
        self,
        market: Market | str,
        symbols: str | Sequence[str] | None = None,
        *,
        source: Source = "streamed",
        label: Label = "end",
        columns: str | Sequence[str] | None = None,
    ) -> pl.DataFrame:
        """The newest bar of each symbol, of those that have one within a week of the market's newest; sorted by symbol.

        Args:
            market: `spot` or `futures`.
            symbols: as in `read`; None for all.
            source: `streamed` for the database, `daily` for the lake, `stitched` for the newer of both (the lake alone where
                there is no database).
            label: as in `read`; `columns` too.
            columns: see `label`.

        Raises:
            NoBars: no bar of these symbols at all, or there is no such store.
        """
        of_market = Market.parse(market)
        asked = symbols_of(self._universe, of_market, symbols)
        wanted = columns_of(columns)
        one_of("source", source, Source), one_of("label", label, Label)
        found = self._newest(of_market, asked, source, _needed(wanted, None))
        if found.is_empty():
            raise NoBars(f"there is no {source} {market} bar of {asked[0]} yet", hint="capture some first")
        return labelled(found.with_columns(pl.lit(None, pl.String).alias("state")), label, wanted)

    def _newest(self, market: Market, symbols: Sequence[Symbol], source: str, columns: list[str]) -> pl.DataFrame:
        """The newest bar of each symbol in that store, or the newer one of both, with its `source`."""
        read = {
            "daily": lambda: newest_stored(self._daily(market), symbols, columns),
            "streamed": lambda: newest_streamed(self._database, market, symbols, columns),
        }
        if source != "stitched":
            return read[source]().with_columns(pl.lit(source).alias(SOURCE))
        stores = ["daily", "streamed"] if self.has_database else ["daily"]
        return newer_of([read[name]().with_columns(pl.lit(name).alias(SOURCE)) for name in stores])

    def coverage(
        self,
        market: Market | str,
        start: date | datetime | str,
        end: date | datetime | str,
        symbols: str | Sequence[str] | None = None,
        *,
        sources: Sequence[Source] = ("daily", "streamed"),
    ) -> pl.DataFrame:
        """How many bars there should be, how many each store has, and in which states they are.

        Args:
            market: `spot` or `futures`.
            start: the first moment; `end` is the one after the last.
            end: see `start`.
            symbols: as in `read`; None for all.
            sources: which stores are looked at. Where there is no database its column is null.

        Returns:
            A row for each symbol and UTC day in which it was listed: `symbol`, `day`, `expected`, `daily`, `streamed`, `missing`
            (expected and in neither), then a column for each state of the ledger, null where none speaks (its `missing` is
            `ledger_missing`). Numbers of minutes. A minute that is not over yet is not expected.
        """
        question = self._question(symbols, start, end, market)
        if not sources or set(sources) - set(_STORES):
            raise UsageError(f"sources={sources!r} are not known", hint=f"use one or more of {', '.join(_STORES)}")
        known = self._known(question)
        present = {name: self._runs(known, name) if name in sources else None for name in _STORES}
        expected = spans.expected_runs(question, self._universe, to_ms(utc_now()))
        return counting.coverage(expected, present, known.ledger_of(question))

    def missing_ranges(
        self,
        market: Market | str,
        start: date | datetime | str,
        end: date | datetime | str,
        symbols: str | Sequence[str] | None = None,
        *,
        source: MissingFrom = "daily",
    ) -> pl.DataFrame:
        """The expected minutes of which `read` has no bar, in ranges, with what the ledger says of them.

        Args:
            market: `spot` or `futures`.
            start: the first moment; `end` is the one after the last.
            end: see `start`.
            symbols: as in `read`; None for all.
            source: `daily`, `streamed` or `stitched`: what a read of that source lacks, one store answering for a whole day with
                `stitched`. `both`: what neither store has.

        Returns:
            `symbol`, `start`, `end` (`Datetime("ms", "UTC")`, half-open), `minutes`, `state` and `cause` (null where no ledger
            speaks), sorted by symbol and time. A minute that is not over yet is not expected.
        """
        question = self._question(symbols, start, end, market)
        names = _STORES if one_of("source", source, MissingFrom) == "both" else (source,)
        if source == "streamed" and not self.has_database:
            raise no_database()
        known = self._known(question)
        found = [runs for name in names if (runs := self._runs(known, name)) is not None]
        there = pl.concat([pl.DataFrame(schema=spans.RUNS), *found])
        expected = spans.expected_runs(question, self._universe, to_ms(utc_now()))
        told = counting.missing_ranges(expected, there, known.ledger_of(question))
        return of_ranges(told, ["minutes", "state", "cause"])

    def unverified(
        self,
        market: Market | str,
        start: date | datetime | str,
        end: date | datetime | str,
        symbols: str | Sequence[str] | None = None,
        *,
        source: Source = "daily",
    ) -> pl.DataFrame:
        """The expected minutes that `read(..., verified=True)` of this source refuses, with the state of each and its cause.

        Args:
            market: `spot` or `futures`.
            start: the first moment; `end` is the one after the last.
            end: see `start`.
            symbols: as in `read`; None for all.
            source: `daily`, `streamed` or `stitched`: a bar can change after the ledger in the one store and not in the other.

        Returns:
            `symbol`, `start`, `end` (`Datetime("ms", "UTC")`, half-open), `state` (`no_ledger` where none speaks, `changed_since`
            where the bar became known after the ledger's comparison), `cause`, `proof`.
        """
        question = self._question(symbols, start, end, market)
        one_of("source", source, Source)
        known = self._known(question)
        ranges = known.ledger_of(question)
        doubtful = known.ledgers.unverified(question, ranges)
        later = [doubtful]
        # Where the ledger has not noted what it compared the content hash has said it; a bar without a ledger is named anyway.
        noted = ranges.filter(pl.any_horizontal(pl.col(UNTIL).is_not_null()))
        for days in spans.days_at_once(spans.days_in(noted), len(question.symbols)):
            bars = self._bars(self._within(question, days), source, ["knowledge_timestamp"], "skip", known)
            told = as_compared(with_states(bars, ranges, ("state", *UNTIL)))
            later.append(changed(told, doubtful))
        return of_ranges(pl.concat(later).sort("symbol", "start"), ["state", "cause", "proof"])

    def _bars(
        self, question: Question, source: str, columns: list[str], on_missing: str, known: Known | None = None
    ) -> pl.DataFrame:
        """`symbol`, `timestamp`, the columns and `source`, sorted by symbol and time; `known` is that of the whole of a part."""
        skip = one_of("on_missing", on_missing, OnMissing) == "skip"
        daily = self._daily(question.market)
        known_days = daily.known_days if known is None else known.days_of
        if source == "daily" or (source == "stitched" and not self.has_database):
            days = known_days(question) if skip else None
            return daily.read(question, columns, days).with_columns(pl.lit("daily").alias(SOURCE))
        streamed = StreamedBars(self._database)
        if source == "streamed":
            in_lake, bars = [], streamed.read([question], columns).with_columns(pl.lit(source).alias(SOURCE))
        else:
            in_lake = known_days(question)
            read_ledger = self._ledgers(question.market).ranges if known is None else known.ledger_of
            bars = stitched(question, columns, daily, in_lake, streamed, read_ledger)
        if not skip and not bars.is_empty():  # an answer without any bar is another error
            there = {*(bars["timestamp"] // DAY_MS).unique(), *map(number_of, in_lake)}
            refuse_missing_days(source, there, self._known(question), streamed)
        return bars

    def _with_states(
        self, question: Question, bars: pl.DataFrame, verified: bool, on_unverified: str
    ) -> pl.DataFrame:
        """The bars with their `state`; with `verified` those alone that are, or an error that names what is not."""
        ledgers = self._ledgers(question.market)
        ranges = ledgers.ranges(question)
        told = as_compared(with_states(bars, ranges, ("state", *UNTIL)))
        if verified and on_unverified == "raise":
            doubtful = ledgers.unverified(question, ranges)
            refuse_unverified(question, pl.concat([doubtful, changed(told, doubtful)]), self._universe)
        return told.filter(pl.col("state").is_in(VERIFIED)) if verified else told

    def _runs(self, known: Known, source: str) -> pl.DataFrame | None:
        """The runs of the minutes of which a source has a bar (`minutes.RUNS`); None where there is no such store."""
        if source == "streamed" and not self.has_database:
            return None
        days = known.days if source == "daily" or not self.has_database else known.question.days
        keys = (self._keys(known, source, some) for some in spans.days_at_once(days, len(known.question.symbols)))
        return pl.concat([pl.DataFrame(schema=spans.RUNS), *map(spans.runs, keys)])

    def _keys(self, known: Known, source: str, days: Sequence[date]) -> pl.DataFrame:
        """`symbol`, `timestamp` of a source's bars of days in order, the interval's; a day that is not there has none."""
        part = self._within(known.question, days)
        if source == "streamed":
            return self._database.keys(part.market, part.interval, symbols=part.symbols)
        return self._bars(part, source, [], "skip", known).select("symbol", "timestamp")

    def _within(self, question: Question, days: Sequence[date]) -> Question:
        """The same question of some of its days, in order and on end, as far as they are part of it."""
        whole = Interval(day_start_ms(days[0]), day_start_ms(days[-1]) + DAY_MS)
        return replace(question, interval=whole.intersect(question.interval) or whole)


def _needed(wanted: Sequence[str], fill: str | None) -> list[str]:
    """The columns of a stored bar that must be read for these."""
    more = filling.NEEDED if fill is not None else ()
    return [name for name in SCHEMA if name in {*wanted, *more} and name not in {"symbol", "timestamp"}]
