"""Completeness: is every expected minute of every expected symbol there, once, and nothing else?

Lives here: the comparison of a set of bars with the grid symbols x minutes. Does not: which minutes the exchange halted
or a symbol was not listed (the caller leaves those out of the symbols, or subtracts them from `missing`), or whether
the values are sensible (soundness.py). Only the key is looked at: keys alone are enough.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import polars as pl

from ohlcv_assets.timestamps import MINUTE_MS, Interval, runs_of_minutes

_KEY = ("symbol", "timestamp")


@dataclass(frozen=True)
class Coverage:
    """How a set of bars covers the grid. Each row is in one class: `rows == present + duplicate + off_grid + outside`.

    Attributes:
        rows: rows looked at.
        expected: symbols times the whole minutes that begin in the interval.
        present: expected bars that are there, counted once each.
        duplicate: rows beyond the first of an expected bar.
        off_grid: rows of an expected symbol, inside the interval, whose timestamp is no whole minute.
        outside: rows of another symbol, of a time outside the interval, or without a key.
        missing: `symbol, timestamp` of every expected bar that is not there, sorted.
    """

    rows: int
    expected: int
    present: int
    duplicate: int
    off_grid: int
    outside: int
    missing: pl.DataFrame

    @property
    def coverage_pct(self) -> float:
        """100 * present / expected; 0 where nothing was expected, which is no proof. Exactly 100.0 only when all are there."""
        return 100.0 * self.present / self.expected if self.expected else 0.0

    @property
    def is_complete(self) -> bool:
        """Whether something was expected, and exactly that is there, each bar once."""
        return self.expected > 0 and self.rows == self.present == self.expected

    def counts(self) -> Mapping[str, int]:
        """The counts by name, `missing` among them."""
        numbers = {name: value for name, value in vars(self).items() if isinstance(value, int)}
        return {**numbers, "missing": self.missing.height}


def missing_ranges(missing: pl.DataFrame) -> pl.DataFrame:
    """The missing minutes as ranges: `start, end` (UNIX ms, half-open), `symbols` (how many), `example` (one of them), `bars`.

    Symbols that lack the same minutes stand in one row, so that a halt of the exchange is one row and not a thousand.

    Args:
        missing: `symbol, timestamp`, one row a minute (`Coverage.missing`).
    """
    rows: dict[tuple[int, int], list[str]] = {}
    for (symbol,), minutes in missing.group_by("symbol", maintain_order=True):
        for run in runs_of_minutes(minutes["timestamp"].to_list()):
            rows.setdefault((run.start_ms, run.end_ms), []).append(str(symbol))
    ranges = [
        (start, end, len(names), names[0], len(names) * (end - start) // MINUTE_MS)
        for (start, end), names in rows.items()
    ]
    schema = {"start": pl.Int64, "end": pl.Int64, "symbols": pl.Int64, "example": pl.String, "bars": pl.Int64}
    return pl.DataFrame(ranges, schema=schema, orient="row").sort("bars", "start", descending=[True, False])


def coverage(frame: pl.DataFrame, symbols: Collection[str], interval: Interval) -> Coverage:
    """Compare bars with the grid of these symbols and the minutes of the interval.

    Args:
        frame: rows with `symbol` (text) and `timestamp` (int64 ms, the bar's start), of one market.
        symbols: the expected symbols; copies count once.
        interval: half-open, UTC.
    """
    grid = _grid(symbols, interval)
    rows = frame.select(_KEY)
    inside = pl.col("timestamp").is_between(interval.start_ms, interval.end_ms, closed="left")
    expected = rows.filter(inside & pl.col("symbol").is_in(sorted(set(symbols))))
    on_grid = expected.filter(pl.col("timestamp") % MINUTE_MS == 0)
    missing = grid.join(on_grid, on=_KEY, how="anti")
    present = grid.height - missing.height
    return Coverage(
        rows=rows.height,
        expected=grid.height,
        present=present,
        duplicate=on_grid.height - present,
        off_grid=expected.height - on_grid.height,
        outside=rows.height - expected.height,
        missing=missing.sort(_KEY),
    )


def _grid(symbols: Collection[str], interval: Interval) -> pl.DataFrame:
    names = pl.DataFrame({"symbol": sorted(set(symbols))}, schema={"symbol": pl.String})
    minutes = pl.DataFrame({"timestamp": pl.Series(list(interval.minutes), dtype=pl.Int64)})
    return names.join(minutes, how="cross")
