"""What is known about the bars in PostgreSQL: how the stream was connected, what was repaired, the ledger, the findings.

Lives here: `QualityStore`, the only way in which the package writes or reads these tables, and the columns of their
frames. Does not: the SQL (quality_statements.py), the tables (migrations/0002_quality.sql), the bars themselves
(database.py), or any judgement of them (quality/).

Everything is append-only: what is said later stands beside what was said before, under a later knowledge_timestamp.
Every method may be called again after an error: what was stored already is not stored twice.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime
from typing import Any
from uuid import uuid4

import polars as pl
import psycopg

from ohlcv_assets.errors import InvalidBars
from ohlcv_assets.instruments import Market
from ohlcv_assets.storage import quality_statements as statements
from ohlcv_assets.storage.database import Database
from ohlcv_assets.storage.frames import conformed
from ohlcv_assets.timestamps import DAY_MS, MINUTE_MS, Interval, floor_to, from_ms, iso, to_ms

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
LEDGER_VERSIONS_SCHEMA: dict[str, pl.DataType] = {
    "day": pl.Date(),
    "universe": pl.String(),
    "knowledge_timestamp": pl.Datetime("us", "UTC"),
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
        ready = conformed(rows, STREAM_MINUTES_SCHEMA, "minutes of the connection log")
        return self._inserted(statements.INSERT_STREAM_MINUTES, ready)

    def stream_minutes(self, market: Market, interval: Interval) -> pl.DataFrame:
        """The connection log of these minutes: `STREAM_MINUTES_SCHEMA`, sorted by minute, shard and run."""
        found = self._database.fetched(statements.stream_minutes(list(STREAM_MINUTES_SCHEMA), market, interval))
        return found.sort("minute_ms", "shard", "run_id")

    def record_repairs(self, rows: pl.DataFrame) -> int:
        """Append decisions about bars; the same decision of the same run with the same content is stored once.

        Args:
            rows: `REPAIRS_SCHEMA`, any order.

        Returns:
            How many were new.
        """
        return self._inserted(statements.INSERT_REPAIRS, conformed(rows, REPAIRS_SCHEMA, "repairs"))

    def repairs(self, market: Market, interval: Interval) -> pl.DataFrame:
        """Every decision about bars of the interval, oldest first: `REPAIRS_SCHEMA`, then `repair` (Int64), `knowledge_timestamp`."""
        columns = [*REPAIRS_SCHEMA, "repair", "knowledge_timestamp"]
        return self._database.fetched(statements.repairs(columns, market, interval)).sort("repair")

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
        ready = conformed(ranges, RANGES_SCHEMA, "ranges of the ledger").sort("symbol", "start")
        _check_whole(ready, interval, bars_expected)
        symbols = bars_expected // len(interval.minutes)
        parts = [(part, _clipped(ready, part), symbols * len(part.minutes)) for part in _by_day(interval)]
        common = {"market": str(market), "universe": universe, "run_id": run_id, "receipt": uuid4()}
        return self._database.written(lambda connection: _stored_ledger(connection, parts, common))

    def ledger(self, market: Market, interval: Interval, *, as_of: datetime | None = None) -> pl.DataFrame:
        """The newest that is said of each minute of the interval.

        Args:
            market: the one market to read.
            interval: half-open; ranges are clipped to it.
            as_of: tz-aware; what was stored later is not seen.

        Returns:
            `RANGES_SCHEMA`, sorted by symbol and start; neighbours that say the same are one range. Minutes of which no
            version speaks are not there.

        Raises:
            NaiveTime: `as_of` has no time zone.
        """
        if as_of is not None:
            to_ms(as_of)  # refuses a naive one
        return _merged(self._database.fetched(statements.ledger(market, interval, as_of)))

    def ledger_versions(self, market: Market, interval: Interval, *, as_of: datetime | None = None) -> pl.DataFrame:
        """Whose symbols the newest version of each day speaks of, and since when it is known.

        Returns:
            `LEDGER_VERSIONS_SCHEMA`, a row a UTC day that has a version, sorted.
        """
        found = self._database.fetched(statements.ledger_versions(market, interval, as_of))
        newest = found.unique("day", keep="last", maintain_order=True).sort("day")
        return newest.select(pl.col(name).cast(dtype) for name, dtype in LEDGER_VERSIONS_SCHEMA.items())

    def ledger_counts(self, market: Market, interval: Interval) -> pl.DataFrame:
        """How many minutes of the interval are in each state by the newest versions: `LEDGER_COUNTS_SCHEMA`, sorted."""
        return self._database.fetched(statements.ledger_counts(market, interval)).sort("day", "state")

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
        said = {"fingerprint": fingerprint, "market": market, "kind": kind, "sentence": sentence, "run_id": run_id}
        row = {**said, "detail": _json(detail), "receipt": uuid4()}

        def told(connection: psycopg.Connection) -> bool:
            connection.execute(statements.INSERT_FINDING, row)
            found = connection.execute(statements.IS_OURS, row).fetchone()
            return found is not None and bool(found[0])

        return self._database.written(told)

    def findings(self, since: datetime | None = None) -> pl.DataFrame:
        """The findings stored at `since` (tz-aware) or later, or all, oldest first: `FINDINGS_SCHEMA`."""
        if since is not None:
            to_ms(since)  # refuses a naive one
        return self._database.fetched(statements.findings(list(FINDINGS_SCHEMA), since)).sort("finding")

    def _inserted(self, statement: str, rows: pl.DataFrame) -> int:
        if rows.is_empty():
            return 0
        parameters = rows.to_dict(as_series=False)
        return self._database.written(lambda connection: connection.execute(statement, parameters).rowcount)


def _json(detail: Mapping[str, Any]) -> str:
    # JSON has no NaN, and a finding is not lost for a number that is none.
    return json.dumps(json.loads(json.dumps(detail, default=str), parse_constant=str), ensure_ascii=False)


def _by_day(interval: Interval) -> list[Interval]:
    days = range(floor_to(interval.start_ms, DAY_MS), interval.end_ms, DAY_MS)
    parts = [Interval(start_ms, start_ms + DAY_MS).intersect(interval) for start_ms in days]
    return [part for part in parts if part is not None]


def _check_whole(ranges: pl.DataFrame, interval: Interval, bars_expected: int) -> None:
    """Every minute of the interval in exactly one range of each symbol, or `InvalidBars`; ranges sorted by both."""
    minutes, symbols = len(interval.minutes), ranges["symbol"].n_unique()
    minute_ms = pl.col("start", "end") % MINUTE_MS != 0
    outside = (pl.col("start") < interval.start_ms) | (pl.col("end") > interval.end_ms)
    overlapping = pl.col("start") < pl.col("end").shift().over("symbol")
    wrong = pl.any_horizontal(minute_ms, outside, overlapping, pl.col("start") >= pl.col("end"))
    bad = ranges.filter(wrong.fill_null(value=False))
    said = int((ranges["end"] - ranges["start"]).sum()) // MINUTE_MS
    if bad.is_empty() and 0 < said == bars_expected == symbols * minutes and interval.end_ms % MINUTE_MS == 0:
        return
    first = "" if bad.is_empty() else f"; wrong is {bad['symbol'][0]} [{iso(bad['start'][0])}, {iso(bad['end'][0])})"
    raise InvalidBars(
        f"the ledger of {interval} holds {said} minutes of {symbols} symbols, expected {bars_expected}{first}",
        hint="put every minute of every symbol into exactly one range",
    )


def _clipped(ranges: pl.DataFrame, part: Interval) -> pl.DataFrame:
    touching = ranges.filter((pl.col("start") < part.end_ms) & (pl.col("end") > part.start_ms))
    return touching.with_columns(
        pl.col("start").clip(lower_bound=part.start_ms), pl.col("end").clip(upper_bound=part.end_ms)
    )


def _stored_ledger(
    connection: psycopg.Connection, parts: list[tuple[Interval, pl.DataFrame, int]], common: Mapping[str, object]
) -> int:
    with connection.transaction():
        connection.execute(statements.TAKE_TURNS)
        versioned = []
        for part, ranges, bars_expected in parts:
            row = {"day": from_ms(part.start_ms).date(), "start_ms": part.start_ms, "end_ms": part.end_ms}
            made = connection.execute(
                statements.INSERT_LEDGER_DAY, {**common, **row, "bars_expected": bars_expected}
            ).fetchone()
            if made is None:  # the answer to an earlier try was lost
                return _version(connection.execute(statements.VERSION_OF_RECEIPT, common).fetchone())
            versioned.append(ranges.select(pl.lit(_version(made)).alias("version"), *RANGES_SCHEMA))
        with connection.cursor() as cursor, cursor.copy(statements.COPY_RANGES) as copy:
            copy.write(pl.concat(versioned).write_csv(include_header=False))
    return _version(made)


def _version(row: tuple[Any, ...] | None) -> int:
    if row is None:
        raise AssertionError("the statement returns a row")  # pragma: no cover
    return int(row[0])


def _merged(ranges: pl.DataFrame) -> pl.DataFrame:
    """Neighbouring ranges that say the same as one; sorted by symbol and start."""
    said = ("symbol", "state", "cause", "proof")
    ordered = ranges.sort("symbol", "start")
    goes_on = pl.all_horizontal(
        pl.col(*said).eq_missing(pl.col(*said).shift()), pl.col("start") == pl.col("end").shift()
    )
    runs = ordered.with_columns(run=(~goes_on.fill_null(value=False)).cum_sum())
    one = runs.group_by("run", maintain_order=True).agg(pl.first(*said, "start"), pl.last("end"))
    return one.select(list(RANGES_SCHEMA))
