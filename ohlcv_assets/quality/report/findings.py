"""What the report on a verdict says: its numbers by symbol, the first bars that differ, and the bars around them.

Lives here: frames that are made of a verdict, bounded where they are shown. Does not: how they look (pages.py, charts.py).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import polars as pl

from ohlcv_assets.bars import KEY, SCHEMA, VALUES
from ohlcv_assets.quality.explained import unexplained
from ohlcv_assets.timestamps import MINUTE_MS

if TYPE_CHECKING:
    from ohlcv_assets.quality.verdict import Verdict

#: Differing bars that are shown, each with so many minutes before and after; all of them are in the Parquet.
SHOWN_BARS = 50
MINUTES_AROUND = 6
#: One row a bar of a side: the first differing bars and those around them.
NEIGHBOURS_SCHEMA: dict[str, pl.DataType] = {
    "side": pl.String(),
    **{name: SCHEMA[name] for name in (*KEY, *VALUES)},
}
_PROBLEMS = ("differing", "only_streamed", "only_fetched", "duplicate", "missing_on_both")


@dataclass(frozen=True)
class DifferingBar:
    """One bar that is not the same on both sides.

    Attributes:
        minutes: 1, or how many consecutive minutes a side lacks from this one on: they are shown as one.
        rows: its rows of `match.DIFFERENCES_SCHEMA`.
        around: its neighbours and itself, `NEIGHBOURS_SCHEMA`.
    """

    symbol: str
    timestamp: int
    minutes: int
    rows: list[dict[str, Any]]
    around: pl.DataFrame

    @property
    def columns(self) -> list[str]:
        """The columns that differ; none where the bar is missing or there twice."""
        return [row["column"] for row in self.rows if row["column"] is not None]


def by_symbol(verdict: Verdict, explained: pl.DataFrame) -> pl.DataFrame:
    """One row a symbol, the worst first: `symbol, expected, equal`, the problems by kind, `explained`, `match_pct`; all of bars.

    Args:
        verdict: both sides, compared.
        explained: `explained.EXPLAINED_SCHEMA`: minutes that are proven not to be there, and are no problem.
    """
    kinds = {
        "differing": "value_differs",
        "only_streamed": "only_left",
        "only_fetched": "only_right",
        "duplicate": "duplicate",
    }
    bars = verdict.match.differences.unique(["symbol", "timestamp", "kind"])
    problems = bars.group_by("symbol").agg(
        **{name: pl.col("kind").str.starts_with(kind).sum() for name, kind in kinds.items()}
    )
    spoiled = verdict.match.differences.select("symbol", "timestamp").unique()
    equal = verdict.streamed.select("symbol", "timestamp").join(
        spoiled, on=["symbol", "timestamp"], how="anti", nulls_equal=True
    )
    rows = pl.DataFrame({"symbol": verdict.symbols}, schema={"symbol": pl.String})
    for counted in (
        equal.group_by("symbol").agg(equal=pl.len()),
        problems,
        unexplained(verdict.both_lack(), explained).group_by("symbol").agg(missing_on_both=pl.len()),
        explained.group_by("symbol").agg(explained=pl.len()),
    ):
        rows = rows.join(counted, on="symbol", how="left")
    return _with_shares(rows.fill_null(0), len(verdict.interval.minutes))


def differing_bars(verdict: Verdict) -> list[DifferingBar]:
    """The first fifty bars that differ: those with other values first, then those that a side lacks."""
    return list(_shown(verdict, _first(verdict)))


def neighbours(verdict: Verdict) -> pl.DataFrame:
    """The bars of `differing_bars` and those around them, of both sides: `NEIGHBOURS_SCHEMA`, sorted by key."""
    return _around(verdict, _first(verdict))


def _first(verdict: Verdict) -> pl.DataFrame:
    """The keys of the bars to show: `symbol, timestamp, minutes`; consecutive minutes that a side lacks are one."""
    differences = verdict.match.differences.drop_nulls(["symbol", "timestamp"])
    lacks = pl.col("kind").is_in(["only_left", "only_right"])
    begins = (pl.col("timestamp").diff() != MINUTE_MS).fill_null(value=True).over("symbol", "kind")
    runs = (
        differences.filter(lacks)
        .sort("symbol", "kind", "timestamp")
        .with_columns(run=begins.cum_sum())
        .group_by("symbol", "kind", "run", maintain_order=True)
        .agg(pl.col("timestamp").first(), minutes=pl.len())
    )
    both = differences.filter(~lacks).with_columns(minutes=pl.lit(1, pl.get_index_type()))
    shown = [part.select("symbol", "timestamp", "minutes") for part in (both, runs)]
    return pl.concat(shown).unique(["symbol", "timestamp"], keep="first", maintain_order=True).head(SHOWN_BARS)


def _with_shares(rows: pl.DataFrame, minutes: int) -> pl.DataFrame:
    found = pl.sum_horizontal("equal", *_PROBLEMS[:-1])
    return (
        rows.with_columns(
            expected=pl.lit(minutes, pl.Int64),
            match_pct=pl.when(found > 0).then(100.0 * pl.col("equal") / found).otherwise(0.0),
            problems=pl.sum_horizontal(_PROBLEMS),
        )
        .sort("problems", "symbol", descending=[True, False])
        .select("symbol", "expected", "equal", *_PROBLEMS, "explained", "match_pct", "problems")
    )


def _shown(verdict: Verdict, keys: pl.DataFrame) -> Iterator[DifferingBar]:
    rows = verdict.match.differences.join(keys, on=["symbol", "timestamp"], how="semi")
    around = _around(verdict, keys)
    reach_ms = MINUTES_AROUND * MINUTE_MS
    for symbol, timestamp, minutes in keys.iter_rows():
        near = pl.col("timestamp").is_between(timestamp - reach_ms, timestamp + reach_ms)
        yield DifferingBar(
            symbol,
            timestamp,
            minutes,
            rows.filter((pl.col("symbol") == symbol) & (pl.col("timestamp") == timestamp)).to_dicts(),
            around.filter((pl.col("symbol") == symbol) & near),
        )


def _around(verdict: Verdict, keys: pl.DataFrame) -> pl.DataFrame:
    """One pass over each side: with half a million bars fifty searches would be slow."""
    steps = pl.Series("step", range(-MINUTES_AROUND, MINUTES_AROUND + 1), dtype=pl.Int64)
    wanted = keys.join(steps.to_frame(), how="cross").select(
        "symbol", timestamp=pl.col("timestamp") + pl.col("step") * MINUTE_MS
    )
    sides = {"streamed": verdict.streamed, "fetched": verdict.fetched}
    parts = [
        bars.join(wanted.unique(), on=["symbol", "timestamp"], how="semi").select(
            pl.lit(side).alias("side"), *KEY, *VALUES
        )
        for side, bars in sides.items()
    ]
    return pl.concat(parts).sort("symbol", "timestamp", "side")
