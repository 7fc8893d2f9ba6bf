"""What there is of the expected bars, and what not.

Lives here: counts by symbol and day, and the ranges of minutes that a store lacks. Does not: why a minute is missing, which the
ledger says (quality/ledger.py), or pictures of it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import polars as pl

from ohlcv_assets.client.question import Question
from ohlcv_assets.client.verified import STATES, with_states
from ohlcv_assets.instruments import Universe
from ohlcv_assets.timestamps import DAY_MS, MINUTE_MS, Interval

_DAY = (pl.col("timestamp") // DAY_MS).alias("day")
_BY = ("symbol", "day")


def expected_minutes(question: Question, universe: Universe) -> pl.DataFrame:
    """Every minute of the interval in which a symbol was listed: `symbol`, `timestamp`, sorted."""
    minutes = pl.DataFrame({"timestamp": pl.Series(list(question.interval.minutes), dtype=pl.Int64)})
    names = pl.DataFrame({"symbol": [str(symbol) for symbol in question.symbols]}, schema={"symbol": pl.String})
    grid = names.join(minutes, how="cross")
    for symbol in question.symbols:
        times = universe.listings.get(symbol)
        if times is None:
            continue
        listed = [(span.since_ms, span.until_ms) for span in times.spans]
        # A minute is expected when the symbol was listed at some time of it.
        inside = [
            (pl.lit(since is None) | (pl.col("timestamp") > (since or 0) - MINUTE_MS))
            & (pl.lit(until is None) | (pl.col("timestamp") < (until or 0)))
            for since, until in listed
        ]
        grid = grid.filter((pl.col("symbol") != symbol) | pl.any_horizontal(inside))
    return grid


def coverage(
    expected: pl.DataFrame, present: Mapping[str, pl.DataFrame | None], ranges: pl.DataFrame
) -> pl.DataFrame:
    """Counts by symbol and day.

    Args:
        expected: `symbol`, `timestamp` of every minute that should be there.
        present: by the name of a store the `symbol`, `timestamp` of the bars that it has; None for one that was not asked.
        ranges: what the ledger says (`verified.RANGES`).

    Returns:
        `symbol`, `day` (Date), `expected`, a column for each store, `missing` (expected, and in none of them), then one for each
        state of the ledger. All Int64; null for a store that was not asked, and for the states of a day without a ledger.
    """
    table = expected.group_by(_BY[0], _DAY).agg(pl.len().cast(pl.Int64).alias("expected"))
    for name, bars in present.items():
        table = _with_store(table, name, bars)
    asked = [bars.select("symbol", "timestamp") for bars in present.values() if bars is not None]
    there = pl.concat(asked).unique() if asked else expected.clear()
    missing = expected.join(there, on=["symbol", "timestamp"], how="anti").group_by("symbol", _DAY)
    table = table.join(missing.agg(pl.len().cast(pl.Int64).alias("missing")), on=_BY, how="left")
    table = table.with_columns(pl.col("missing").fill_null(0)).join(_by_state(ranges), on=_BY, how="left")
    return table.with_columns((pl.col("day") * DAY_MS).cast(pl.Datetime("ms")).cast(pl.Date)).sort(_BY)


def missing_ranges(expected: pl.DataFrame, bars: pl.DataFrame, ranges: pl.DataFrame) -> pl.DataFrame:
    """The expected minutes of which there is no bar, in ranges.

    Args:
        expected: `symbol`, `timestamp`, sorted.
        bars: `symbol`, `timestamp` of what is there.
        ranges: what the ledger says (`verified.RANGES`).

    Returns:
        `symbol`, `start`, `end` (ms, half-open), `minutes`, `state`, `cause` (null where no ledger speaks), sorted: minutes on end
        of which the ledger says the same.
    """
    missing = expected.join(bars.select("symbol", "timestamp"), on=["symbol", "timestamp"], how="anti")
    said = with_states(missing.sort("symbol", "timestamp"), ranges, ("state", "cause"))
    same = ["symbol", "state", "cause"]
    breaks = pl.any_horizontal(
        pl.col("timestamp").diff().ne_missing(MINUTE_MS),
        *(pl.col(name).ne_missing(pl.col(name).shift()) for name in same),
    )
    run = breaks.cum_sum().alias("run")
    first, last = pl.col("timestamp").first(), pl.col("timestamp").last() + MINUTE_MS
    return (
        said.with_columns(run)
        .group_by("run", *same, maintain_order=True)
        .agg(first.alias("start"), last.alias("end"), pl.len().cast(pl.Int64).alias("minutes"))
        .select("symbol", "start", "end", "minutes", "state", "cause")
    )


def _with_store(table: pl.DataFrame, name: str, bars: pl.DataFrame | None) -> pl.DataFrame:
    if bars is None:
        return table.with_columns(pl.lit(None, pl.Int64).alias(name))
    counted = bars.group_by("symbol", _DAY).agg(pl.len().cast(pl.Int64).alias(name))
    return table.join(counted, on=_BY, how="left").with_columns(pl.col(name).fill_null(0))


def _by_state(ranges: pl.DataFrame) -> pl.DataFrame:
    minutes = (pl.col("end") - pl.col("start")) // MINUTE_MS
    return ranges.group_by("symbol", (pl.col("start") // DAY_MS).alias("day")).agg(
        minutes.filter(pl.col("state") == state).sum().alias(state) for state in STATES
    )


def within(bars: pl.DataFrame, symbols: Sequence[str], interval: Interval) -> pl.DataFrame:
    """The rows of these symbols and this interval."""
    inside = pl.col("timestamp").is_between(interval.start_ms, interval.end_ms, closed="left")
    return bars.filter(inside & pl.col("symbol").is_in(list(symbols)))
