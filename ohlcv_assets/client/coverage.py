"""What there is of the expected bars, and what not.

Lives here: counts by symbol and day, and the ranges of minutes that a store lacks. Does not: which minutes are expected, and what is
left when some are taken from others (minutes.py), why a minute is missing, which the ledger says (quality/ledger.py), or pictures.
"""

from __future__ import annotations

from collections.abc import Mapping

import polars as pl

from ohlcv_assets.client import minutes as spans
from ohlcv_assets.client.verified import STATES, with_states
from ohlcv_assets.timestamps import DAY_MS, MINUTE_MS

_BY = ("symbol", "day")
_SAID = ("state", "cause")
#: The column of each state of the ledger: its name, but for the one that a column has that says something else.
STATE_COLUMNS: dict[str, str] = {state: "ledger_missing" if state == "missing" else state for state in STATES}


def coverage(
    expected: pl.DataFrame, present: Mapping[str, pl.DataFrame | None], ranges: pl.DataFrame
) -> pl.DataFrame:
    """Counts by symbol and day.

    Args:
        expected: `minutes.RUNS`: the minutes that should be there.
        present: by the name of a store the runs of the bars that it has; None for one that was not asked.
        ranges: what the ledger says (`verified.RANGES`).

    Returns:
        `symbol`, `day` (Date), `expected`, a column for each store, `missing` (expected, and in none of them), then
        `STATE_COLUMNS`. All Int64; null for a store that was not asked, and for the states of a day without a ledger.
    """
    table = _counted(expected, "expected")
    for name, runs in present.items():
        if runs is None:
            table = table.with_columns(pl.lit(None, pl.Int64).alias(name))
        else:
            table = table.join(_counted(runs, name), on=_BY, how="left").with_columns(pl.col(name).fill_null(0))
    there = pl.concat([pl.DataFrame(schema=spans.RUNS), *(runs for runs in present.values() if runs is not None)])
    missing = _counted(spans.without(expected, there), "missing")
    table = table.join(missing, on=_BY, how="left").with_columns(pl.col("missing").fill_null(0))
    table = table.join(_by_state(ranges), on=_BY, how="left")
    return table.with_columns((pl.col("day") * DAY_MS).cast(pl.Datetime("ms")).cast(pl.Date)).sort(_BY)


def missing_ranges(expected: pl.DataFrame, there: pl.DataFrame, ranges: pl.DataFrame) -> pl.DataFrame:
    """The expected minutes of which there is no bar, in ranges.

    Args:
        expected: `minutes.RUNS`: the minutes that should be there.
        there: runs of what is there; they may overlap.
        ranges: what the ledger says (`verified.RANGES`).

    Returns:
        `symbol`, `start`, `end` (ms, half-open), `minutes`, `state`, `cause` (null where no ledger speaks), sorted: minutes on end
        of which the ledger says the same.
    """
    pieces = spans.cut(spans.without(expected, there), ranges).rename({"start": "timestamp", "end": "until"})
    said = with_states(pieces, ranges, _SAID).rename({"timestamp": "start", "until": "end"})
    same = ["symbol", *_SAID]
    breaks = pl.any_horizontal(
        pl.col("start").ne_missing(pl.col("end").shift()),
        *(pl.col(name).ne_missing(pl.col(name).shift()) for name in same),
    )
    joined = said.group_by(breaks.cum_sum().alias("run"), *same, maintain_order=True)
    minutes = ((pl.col("end") - pl.col("start")) // MINUTE_MS).alias("minutes")
    found = joined.agg(pl.col("start").first(), pl.col("end").last()).with_columns(minutes)
    return found.select("symbol", "start", "end", "minutes", *_SAID)


def _counted(runs: pl.DataFrame, name: str) -> pl.DataFrame:
    """How many minutes there are of each symbol and day."""
    by_day = spans.by_day(runs).group_by(_BY)
    return by_day.agg(((pl.col("end") - pl.col("start")) // MINUTE_MS).sum().alias(name))


def _by_state(ranges: pl.DataFrame) -> pl.DataFrame:
    minutes = (pl.col("end") - pl.col("start")) // MINUTE_MS
    return ranges.group_by("symbol", (pl.col("start") // DAY_MS).alias("day")).agg(
        minutes.filter(pl.col("state") == state).sum().alias(name) for state, name in STATE_COLUMNS.items()
    )
