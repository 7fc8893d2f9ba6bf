"""What became known when, and what was decided: read like the bars.

Lives here: versions, changes, repairs and findings, with times as people read them. Does not: deciding anything (quality/).
"""

from __future__ import annotations

from datetime import date, datetime

import polars as pl

from ohlcv_assets.client.answer import ends
from ohlcv_assets.client.daily import DailyBars
from ohlcv_assets.client.question import Question
from ohlcv_assets.errors import UsageError
from ohlcv_assets.storage.changes import CHANGES_SCHEMA
from ohlcv_assets.timestamps import Interval

VERSIONS_SCHEMA: dict[str, pl.DataType] = {
    "day": pl.Date(),
    "known_at": pl.Datetime("us", "UTC"),
    "content_hash": pl.String(),
    "current": pl.Boolean(),
    "location": pl.String(),
}


def versions(daily: DailyBars, day: date) -> pl.DataFrame:
    """Every content that a day of the lake had, oldest first: `VERSIONS_SCHEMA`."""
    found = [
        (day, version.known_at, version.content_hash, version.current, daily.lake.location(version.key))
        for version in daily.lake.versions(daily.signature, day)
    ]
    return pl.DataFrame(found, schema=VERSIONS_SCHEMA, orient="row")


def lake_changes(daily: DailyBars, question: Question, since: datetime, until: datetime) -> pl.DataFrame:
    """What became known of these bars in the lake after `since` and up to `until`: `CHANGES_SCHEMA`.

    Only days that got a version in between are read.
    """
    parts = [pl.DataFrame(schema=CHANGES_SCHEMA)]
    there = set(daily.days())
    for day in question.days:
        if day not in there:
            continue
        known = [version.known_at for version in daily.lake.versions(daily.signature, day)]
        if any(since < moment <= until for moment in known):
            parts.append(daily.lake.changes(daily.signature, day, since, until))
    changed = pl.concat(parts)
    return changed.filter(_inside(question.interval) & pl.col("symbol").is_in(list(question.symbols))).sort(
        "symbol", "timestamp", maintain_order=True
    )


def with_ends(rows: pl.DataFrame, first: tuple[str, ...] = ("symbol",)) -> pl.DataFrame:
    """Rows about bars with both ends of the bar's interval in the place of its `timestamp`."""
    names = [name for name in rows.columns if name != "timestamp" and name not in first]
    return rows.with_columns(**ends()).select("interval_end", "interval_start", *first, *names)


def in_order(since: datetime, until: datetime) -> None:
    """Refuse two moments of which the first is not before the second.

    Raises:
        UsageError: nothing can become known between them.
    """
    if since >= until:
        raise UsageError(
            f"nothing becomes known after {since.isoformat()} and up to {until.isoformat()}",
            hint="give the earlier moment as since",
        )


def _inside(interval: Interval) -> pl.Expr:
    return pl.col("timestamp").is_between(interval.start_ms, interval.end_ms, closed="left")
