"""What is known about the bars: the ledger, what became known when, what was repaired and what was found.

Lives here: the methods of the client that read this. Does not: the bars themselves (reader.py), or any judgement (quality/).
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date, datetime

import polars as pl

from ohlcv_assets.client import history
from ohlcv_assets.client.answer import of_ranges
from ohlcv_assets.client.known import Known
from ohlcv_assets.client.question import (
    Question,
    Source,
    day_of,
    interval_of,
    known_by,
    moment_of,
    number_of,
    one_of,
    symbols_of,
)
from ohlcv_assets.client.stitched import not_in_lake
from ohlcv_assets.client.stores import Stores
from ohlcv_assets.client.streamed import StreamedBars
from ohlcv_assets.client.whole_days import refuse_missing_days
from ohlcv_assets.clock import utc_now
from ohlcv_assets.errors import UsageError
from ohlcv_assets.instruments import Market
from ohlcv_assets.quality.results import Flow, QaResult, newest_result, partition_folder
from ohlcv_assets.timestamps import DAY_MS, HOUR_MS, Interval, to_ms


class Knowledge(Stores):
    """The part of the client that reads what is known about bars."""

    def ledger(
        self,
        market: Market | str,
        start: date | datetime | str,
        end: date | datetime | str,
        symbols: str | Sequence[str] | None = None,
        *,
        as_of: date | datetime | str | None = None,
    ) -> pl.DataFrame:
        """What the ledger says of every minute: which two captures agree about, and why the others are missing.

        Args:
            market: `spot` or `futures`.
            start: the first moment; `end` is the one after the last.
            end: see `start`.
            symbols: as in `read`; None for all.
            as_of: what it said at this moment; only a database keeps that.

        Returns:
            `symbol`, `start`, `end` (`Datetime("ms", "UTC")`, half-open), `state`, `cause` and `proof` (JSON text; both null where
            there is nothing to explain), sorted. Days without a ledger are not there.
        """
        question = self._question(symbols, start, end, market, as_of)
        return of_ranges(self._ledgers(question.market).ranges(question), ["state", "cause", "proof"])

    def versions(self, market: Market | str, day: date | str) -> pl.DataFrame:
        """Every content that a day of the lake had, oldest first.

        Returns:
            `day`, `known_at` (`Datetime("us", "UTC")`: from then on reads by `as_of` see it), `content_hash`, `current`, `location`.

        Raises:
            DayMissing: the day is not in the lake.
        """
        return history.versions(self._daily(Market.parse(market)), day_of(day))

    def changes(
        self,
        market: Market | str,
        start: date | datetime | str,
        end: date | datetime | str,
        symbols: str | Sequence[str] | None = None,
        *,
        since: date | datetime | str,
        until: date | datetime | str | None = None,
        source: Source = "daily",
    ) -> pl.DataFrame:
        """What became known of these bars between two moments: the difference of two reads by `as_of`.

        Args:
            market: `spot` or `futures`.
            start: of the bars; `end` is not part of it.
            end: see `start`.
            symbols: as in `read`; None for all.
            since: what was known then is not told.
            until: the last moment of knowledge; by default now.
            source: `daily` or `streamed`.

        Returns:
            `interval_end`, `interval_start`, `symbol`, `kind` (`new`, `changed`, `gone`), `column`, `before`, `after`,
            `knowledge_timestamp`, `reason` (of a revision): a row for each column that changed.
        """
        question = self._question(symbols, start, end, market)
        first, last = known_by(since), known_by(until) or utc_now()
        if first is None:
            raise UsageError("since is needed", hint="give the earlier of the two moments")
        history.in_order(first, last)
        if one_of("source", source, Source) == "daily":
            return history.with_ends(history.lake_changes(self._daily(question.market), question, first, last))
        if source == "stitched":
            raise UsageError("the two stores learn at different times", hint="use daily or streamed")
        return history.with_ends(
            self._database.changes(question.market, question.interval, first, last, symbols=question.symbols)
        )

    def insist_on_days(
        self,
        symbols: str | Sequence[str] | None,
        start: date | datetime | str,
        end: date | datetime | str,
        *,
        market: Market | str,
        source: Source = "daily",
        as_of: date | datetime | str | None = None,
    ) -> None:
        """Raise where `read` would, because a whole day is not there, without reading its bars.

        For an answer that is read in parts with `on_missing="skip"`: whether a day is there is a matter of all symbols together.

        Args:
            symbols: as in `read`, all of them.
            start: the first moment; `end` is the one after the last.
            end: see `start`.
            market: `spot` or `futures`.
            source: `daily`, `streamed` or `stitched`.
            as_of: as in `read`.

        Raises:
            DayMissing: names the first day.
        """
        question = self._question(symbols, start, end, market, as_of)
        known = self._known(question)
        if one_of("source", source, Source) == "daily" or (source == "stitched" and not self.has_database):
            known.daily.insist_on(question.days)
            return
        streamed, in_lake = StreamedBars(self._database), known.days if source == "stitched" else []
        asked = not_in_lake(question, in_lake)
        there = {*streamed.counts(asked)["day"], *map(number_of, in_lake)}
        if there:  # else there is no bar at all, which is another error
            refuse_missing_days(source, there, known, streamed)

    def repairs(
        self,
        market: Market | str,
        start: date | datetime | str,
        end: date | datetime | str,
        symbols: str | Sequence[str] | None = None,
    ) -> pl.DataFrame:
        """What a third capture decided about bars of the interval, oldest first; kept in the database.

        Returns:
            `interval_end`, `interval_start`, `market`, `symbol`, then `side`, `decision`, `reason`, `sources`, `before`, `after` (JSON
            text), `run_id`, `repair`, `knowledge_timestamp`.
        """
        question = self._question(symbols, start, end, market)
        found = self._quality.repairs(question.market, question.interval)
        named = found.filter(pl.col("symbol").is_in(list(question.symbols)))
        return history.with_ends(named, ("market", "symbol"))

    def findings(self, since: date | datetime | str | None = None) -> pl.DataFrame:
        """What was found and told, of both markets, oldest first; kept in the database.

        Args:
            since: only those that were stored then or later; by default all.

        Returns:
            `finding`, `fingerprint`, `market` (null: both), `kind`, `sentence`, `detail` (JSON text), `run_id`,
            `knowledge_timestamp`.
        """
        return self._quality.findings(known_by(since))

    def qa_result(self, market: Market | str, day: date | str, *, hour: int | None = None) -> QaResult:
        """The newest stored comparison of what was streamed with what was fetched: of a UTC day, or of one hour of it.

        Args:
            market: `spot` or `futures`.
            day: a date, or a text like 2025-06-01.
            hour: 0 to 23: of the ten-minute QA of that hour; None: of the day.

        Raises:
            UsageError: no market, day or hour.
            NoBars: this was not compared yet.
        """
        first_ms = to_ms(moment_of(day))
        if first_ms % DAY_MS or hour not in (None, *range(24)):
            raise UsageError(
                f"{day} hour={hour} is no UTC day or hour of it", hint="write 2025-06-01, and hours 0 to 23"
            )
        hour_ms = first_ms + (hour or 0) * HOUR_MS
        flow: Flow = "daily_qa" if hour is None else "recent_qa"
        interval = Interval(hour_ms, hour_ms + HOUR_MS)
        return newest_result(self._lake, partition_folder(flow, Market.parse(market), self._universe, interval))

    def _known(self, question: Question) -> Known:
        return Known(question, self._daily(question.market), self._ledgers(question.market))

    def _question(
        self,
        symbols: str | Sequence[str] | None,
        start: date | datetime | str,
        end: date | datetime | str,
        market: Market | str,
        as_of: date | datetime | str | None = None,
    ) -> Question:
        of_market = Market.parse(market)
        wanted = symbols_of(self._universe, of_market, symbols)
        return Question(of_market, wanted, interval_of(start, end), known_by(as_of))
