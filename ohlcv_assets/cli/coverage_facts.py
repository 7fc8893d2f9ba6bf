"""What `ohlcv coverage` found, summed by symbol and in all, as JSON and as cells of a table.

Lives here: sums and words. Does not: counting minutes (client/coverage.py), or showing them (coverage.py, coverage_map.py,
coverage_page.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from shlex import quote
from typing import Any, Final

import polars as pl

from ohlcv_assets.client.coverage import STATE_COLUMNS
from ohlcv_assets.client.verified import NOT_LISTED, VERIFIED
from ohlcv_assets.quality.report.pages import percent
from ohlcv_assets.timestamps import Interval, iso

#: The name of the row of the sums.
ALL: Final = "all"
#: What a table has of a symbol, in this order; the later ones of `_DROPPED` go first where a terminal is narrow.
_COLUMNS: Final = (
    "symbol", "expected", "daily", "streamed", "missing", "covered", "first day", "last day", "verified", "not verified",
)  # fmt: skip
_DROPPED: Final = ("last day", "first day", "not verified", "verified", "streamed", "daily")
#: What rich draws around a cell.
_FRAME = 3


@dataclass(frozen=True)
class Coverage:
    """The answer of the client, and what was asked.

    Attributes:
        market: `spot` or `futures`.
        universe: version.
        interval: what was looked at.
        source: `daily`, `streamed` or `both`.
        has_database: whether there was one to ask.
        table: `OhlcvClient.coverage(...)`.
        ranges: `OhlcvClient.missing_ranges(...)`, where they were asked for.
        asked: the symbols and patterns that were named; none for all.
    """

    market: str
    universe: str
    interval: Interval
    source: str
    has_database: bool
    table: pl.DataFrame
    ranges: pl.DataFrame | None
    asked: tuple[str, ...] = ()

    @property
    def is_blind(self) -> bool:
        """Whether what was streamed is part of the question and cannot be known."""
        return self.source == "both" and not self.has_database

    @cached_property
    def symbols(self) -> pl.DataFrame:
        """A row a symbol, those that miss most first."""
        return _summed(self.table, ["symbol"]).sort("missing", "symbol", descending=[True, False])

    @cached_property
    def totals(self) -> dict[str, Any]:
        """The sums over all symbols; of nothing expected there is nothing."""
        summed = _summed(self.table, [])
        return summed.row(0, named=True)

    @property
    def command(self) -> str:
        """How this is asked for again."""
        start, end = (
            iso(moment).removesuffix("T00:00Z") for moment in (self.interval.start_ms, self.interval.end_ms)
        )
        of = "" if self.source == "both" else f" --source {self.source}"
        names = "".join(f" {quote(name)}" for name in self.asked)
        return f"ohlcv coverage{names} --market {self.market} --start {start} --end {end}{of}"

    def sentence(self) -> str:
        """What it comes to, in words."""
        sums = self.totals
        if not sums["missing"]:
            said = f"each of {sums['expected']:,} expected bars is there"
        else:
            share = percent(100 * sums["missing"] / sums["expected"])
            said = f"{sums['missing']:,} of {sums['expected']:,} expected bars are missing ({share})"
        halted = sums["halted"] or 0
        known = f"; in {halted:,} minutes the exchange halted, by the ledger" if halted else ""
        silent = max(0, sums["expected"] - (sums["told"] or 0))
        return f"{said}{known}" + (f"; no ledger speaks of {silent:,} minutes" if silent else "")

    def facts(self) -> dict[str, Any]:
        """All of it for machines (docs/reference/coverage.md)."""
        days = self.table.partition_by("symbol", as_dict=True, include_key=False)
        told = {
            "market": self.market,
            "universe": self.universe,
            "interval": str(self.interval),
            "start": iso(self.interval.start_ms),
            "end": iso(self.interval.end_ms),
            "source": self.source,
            "has_database": self.has_database,
            **_facts(self.totals),
            "symbols": [
                {"symbol": row["symbol"], **_facts(row), "days": days[(row["symbol"],)].select(_BY_DAY).to_dicts()}
                for row in self.symbols.iter_rows(named=True)
            ],
        }
        if self.ranges is None:
            return told
        return {**told, "missing_ranges": [range_facts(row) for row in self.ranges.iter_rows(named=True)]}


_BY_DAY = ("day", "expected", "daily", "streamed", "missing")


def range_facts(row: dict[str, Any]) -> dict[str, Any]:
    """A range of missing minutes, its times as text."""
    times = {name: f"{row[name]:%Y-%m-%dT%H:%MZ}" for name in ("start", "end")}
    return {"symbol": row["symbol"], **times, **{name: row[name] for name in ("minutes", "state", "cause")}}


def row_of(row: dict[str, Any]) -> dict[str, str]:
    """A symbol's cells; - where something is not known."""
    numbers = ("expected", "daily", "streamed", "missing", "verified")
    shown = {name: "-" if row[name] is None else f"{row[name]:,}" for name in (*numbers, "not_verified")}
    days = {name: "-" if row[name] is None else str(row[name]) for name in ("first_day", "last_day")}
    cells = {"symbol": row["symbol"], "covered": covered(row), **shown, **days}
    return {name: cells[name.replace(" ", "_")] for name in _COLUMNS}


def covered(row: dict[str, Any]) -> str:
    """The share of the expected minutes that is there; 100 % of exactly all alone."""
    return percent(_share(row)) if row["expected"] else "-"


def columns_within(width: int | None, rows: Sequence[dict[str, str]]) -> list[str]:
    """The columns for which there is room; all of them where nobody says how much there is."""
    columns = list(_COLUMNS)
    widths = {name: max(len(name), *(len(row[name]) for row in rows)) + _FRAME for name in columns}
    for name in _DROPPED:
        if width is None or sum(widths[column] for column in columns) < width:
            break
        columns.remove(name)
    return columns


def _summed(table: pl.DataFrame, by: list[str]) -> pl.DataFrame:
    """Sums of the counts; null where every one of them is not known."""

    def total(name: str) -> pl.Expr:
        return pl.when(pl.col(name).is_not_null().any()).then(pl.col(name).sum()).alias(name)

    stored = table.filter((pl.col("daily").fill_null(0) + pl.col("streamed").fill_null(0)) > 0)
    days = [pl.col("day").min().alias("first_day"), pl.col("day").max().alias("last_day")]
    counts = [pl.col(name).sum() for name in ("expected", "missing")]
    sums = [*counts, *map(total, ("daily", "streamed", *STATE_COLUMNS.values()))]
    if by:
        found = table.group_by(by).agg(sums).join(stored.group_by(by).agg(days), on=by, how="left")
    else:
        found = pl.concat([table.select(sums), stored.select(days)], how="horizontal")
    told = [name for name in STATE_COLUMNS.values() if name != NOT_LISTED]
    found = found.with_columns(
        verified=pl.sum_horizontal(VERIFIED, ignore_nulls=False), told=pl.sum_horizontal(told, ignore_nulls=False)
    )
    return found.with_columns(not_verified=(pl.col("expected") - pl.col("verified")).clip(0))


def _facts(row: dict[str, Any]) -> dict[str, Any]:
    counts = {name: row[name] for name in ("expected", "daily", "streamed", "missing")}
    share = _share(row) if row["expected"] else None
    others = {name: row[name] for name in ("first_day", "last_day", "verified", "not_verified")}
    states = None if row["told"] is None else {state: row[name] for state, name in STATE_COLUMNS.items()}
    return {**counts, "coverage_pct": share, **others, "states": states}


def _share(row: dict[str, Any]) -> float:
    return float(100 * (row["expected"] - row["missing"]) / row["expected"])
