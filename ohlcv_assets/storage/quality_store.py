"""What is known about the bars in PostgreSQL: how the stream was connected, what was repaired, the ledger, the findings.

Lives here: `QualityStore`, the only way in which the package writes or reads these tables, and the columns of their
frames. Does not: the SQL (quality_statements.py), the tables (migrations/0002_quality.sql), the bars themselves
(database.py), or any judgement of them (quality/).

Everything is append-only: what is said later stands beside what was said before, under a later knowledge_timestamp.
Every method may be called again after an error: what was stored already is not stored twice.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

import polars as pl

from ohlcv_assets.instruments import Market
from ohlcv_assets.storage.database import Database
from ohlcv_assets.timestamps import Interval

_UTC_MICROSECONDS = pl.Datetime("us", "UTC")

#: The connection log: one row a minute and streaming run. `minute_ms` is the minute's start, `shard` such as 1/4,
#: `connected_s` how many seconds of that minute the WebSocket was open, by the exchange's clock.
STREAM_MINUTES_SCHEMA: dict[str, pl.DataType] = {
    "market": pl.String(),
    "minute_ms": pl.Int64(),
    "run_id": pl.String(),
    "shard": pl.String(),
    "connected_s": pl.Float64(),
    "bars_expected": pl.Int64(),
    "bars_present": pl.Int64(),
}

#: One decision about one bar. `side`: streamed, fetched or none. `decision`: one of `DECISIONS`. `sources`: JSON, the
#: captures that were compared, each with its values and time. `before` and `after`: JSON of the bar's values, or null.
REPAIRS_SCHEMA: dict[str, pl.DataType] = {
    "market": pl.String(),
    "symbol": pl.String(),
    "timestamp": pl.Int64(),
    "side": pl.String(),
    "decision": pl.String(),
    "reason": pl.String(),
    "sources": pl.String(),
    "before": pl.String(),
    "after": pl.String(),
    "run_id": pl.String(),
}
SIDES: tuple[str, ...] = ("streamed", "fetched", "none")
DECISIONS: tuple[str, ...] = (
    "streamed_was_wrong",
    "fetched_was_wrong",
    "streamed_was_missing",
    "fetched_was_missing",
    "undecided",
    "needs_confirmation",
)

#: The ledger in ranges: [start, end) in UNIX milliseconds, whole minutes; `proof`: JSON, or null.
RANGES_SCHEMA: dict[str, pl.DataType] = {
    "symbol": pl.String(),
    "start": pl.Int64(),
    "end": pl.Int64(),
    "state": pl.String(),
    "cause": pl.String(),
    "proof": pl.String(),
}
LEDGER_COUNTS_SCHEMA: dict[str, pl.DataType] = {"day": pl.Date(), "state": pl.String(), "bars": pl.Int64()}

#: What was found once: `detail` is JSON.
FINDINGS_SCHEMA: dict[str, pl.DataType] = {
    "finding": pl.Int64(),
    "fingerprint": pl.String(),
    "market": pl.String(),
    "kind": pl.String(),
    "sentence": pl.String(),
    "detail": pl.String(),
    "run_id": pl.String(),
    "knowledge_timestamp": _UTC_MICROSECONDS,
}


class QualityStore:
    """What is known about the bars of a database.

    Args:
        database: opened and migrated; its patience with an unavailable server is this store's.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def record_stream_minutes(self, rows: pl.DataFrame) -> int:
        """Append to the connection log; a minute that its run has told already stays as it was told first.

        Args:
            rows: `STREAM_MINUTES_SCHEMA`, any order.

        Returns:
            How many were new.
        """
        raise NotImplementedError

    def stream_minutes(self, market: Market, interval: Interval) -> pl.DataFrame:
        """The connection log of these minutes: `STREAM_MINUTES_SCHEMA`, sorted by minute, shard and run."""
        raise NotImplementedError

    def record_repairs(self, rows: pl.DataFrame) -> int:
        """Append decisions about bars; the same decision of the same run with the same content is stored once.

        Args:
            rows: `REPAIRS_SCHEMA`, any order.

        Returns:
            How many were new.
        """
        raise NotImplementedError

    def repairs(self, market: Market, interval: Interval) -> pl.DataFrame:
        """Every decision about bars of the interval, oldest first: `REPAIRS_SCHEMA`, then `repair` (Int64), `knowledge_timestamp`."""
        raise NotImplementedError

    def record_ledger(
        self,
        market: Market,
        interval: Interval,
        ranges: pl.DataFrame,
        *,
        universe: str,
        bars_expected: int,
        run_id: str,
    ) -> int:
        """Store a new version of the ledger of these minutes, whole or not at all.

        Args:
            market: of all the symbols.
            interval: whole minutes: an hour, a day, several days. It is stored a UTC day at a time.
            ranges: `RANGES_SCHEMA`, any order: for every symbol, ranges that cover every minute of the interval
                exactly once.
            universe: whose symbols they are.
            bars_expected: symbols times minutes.
            run_id: of the run that says so.

        Returns:
            The version (of the last day, where there are several); later ones are higher.

        Raises:
            InvalidBars: the ranges do not cover symbols times minutes exactly once; nothing was stored.
        """
        raise NotImplementedError

    def ledger(self, market: Market, interval: Interval) -> pl.DataFrame:
        """The newest that is said of each minute of the interval: `RANGES_SCHEMA`, sorted by symbol and start.

        Ranges are clipped to the interval, and neighbours that say the same are one range. Minutes of which no version
        speaks are not there.
        """
        raise NotImplementedError

    def ledger_counts(self, market: Market, interval: Interval) -> pl.DataFrame:
        """How many minutes of the interval are in each state by the newest versions: `LEDGER_COUNTS_SCHEMA`, sorted."""
        raise NotImplementedError

    def record_finding(
        self,
        fingerprint: str,
        *,
        market: str | None,
        kind: str,
        sentence: str,
        detail: Mapping[str, Any],
        run_id: str,
    ) -> bool:
        """Store a finding once.

        Args:
            fingerprint: the same for the same finding; a second one is not stored.
            market: spot, futures, or None where it concerns both.
            kind: of finding, such as the name of a check.
            sentence: what was found, for a person.
            detail: whatever JSON can hold.
            run_id: of the run that found it.

        Returns:
            Whether this call was the first to tell it. Exactly one caller gets True, also when answers were lost.
        """
        raise NotImplementedError

    def findings(self, since: datetime | None = None) -> pl.DataFrame:
        """The findings stored at `since` (tz-aware) or later, or all, oldest first: `FINDINGS_SCHEMA`."""
        raise NotImplementedError
