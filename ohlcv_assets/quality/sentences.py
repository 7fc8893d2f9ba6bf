"""What was found, in sentences that a person reads: the same ones on a check's page and in a report.

Lives here: words. Does not: findings (match.py, completeness.py, soundness.py), or where the words are shown.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import polars as pl

from ohlcv_assets.quality.match import MatchReport
from ohlcv_assets.timestamps import iso

_NAMED_RANGES = 3
_STATES = {"halted": "while the exchange stood still", "not_listed": "while the symbol was not listed"}
#: What `match.Kind` means, left being the streamed side.
KINDS = {
    "only_left": "only streamed",
    "only_right": "only fetched",
    "duplicate_left": "streamed more than once",
    "duplicate_right": "fetched more than once",
    "value_differs": "values differ",
}


def of_match(report: MatchReport) -> str:
    """Whether the two sides hold the same bars, and the first that differs."""
    if report.is_match:
        return f"all {report.equal:,} bars are equal"
    if not report.union:
        return "neither side has a bar: nothing was compared, which is no proof"
    first = of_difference(report.differences.row(0, named=True))
    return f"{report.union - report.equal:,} of {report.union:,} bars are not the same on both sides; first {first}"


def of_difference(row: Mapping[str, Any]) -> str:
    """One row of `match.DIFFERENCES_SCHEMA`: which bar, and which values."""
    bar = f"{row['symbol']} {iso(row['timestamp']) if row['timestamp'] is not None else 'without a time'}"
    if row["column"] is None:
        return f"{bar}: {KINDS[row['kind']]}"
    return f"{bar}: {row['column']} streamed {row['left']!r}, fetched {row['right']!r}"


def of_ranges(ranges: pl.DataFrame) -> str:
    """The longest missing ranges (`completeness.missing_ranges`); how many more there are."""
    first = [
        f"{iso(start)} to {iso(end)} of {example}" + (f" and {symbols - 1} more symbols" if symbols > 1 else "")
        for start, end, symbols, example, _ in ranges.head(_NAMED_RANGES).iter_rows()
    ]
    more = ranges.height - _NAMED_RANGES
    return ", ".join(first) + (f", and {more} more ranges" if more > 0 else "")


def of_explained(explained: pl.DataFrame) -> str:
    """How many minutes are proven not to be there, by state (`explained.EXPLAINED_SCHEMA`)."""
    counted = explained.group_by("state").len().sort("state").iter_rows()
    return ", ".join(f"{bars:,} {_STATES[state]}" for state, bars in counted)


def of_names(names: list[str], shown: int = 5) -> str:
    """The first of some names; how many more there are."""
    more = len(names) - shown
    return ", ".join(names[:shown]) + (f" and {more} more" if more > 0 else "")
