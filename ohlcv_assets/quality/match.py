"""The match: are two captures of the same bars the same, and if not, which bar and which column?

Lives here: the full outer join of two frames on the key, with no tolerance and no column left out, and the list of what
differs. Does not: whether the bars are all there (completeness.py) or sensible (soundness.py), where the frames come
from (storage/), or what is done about a difference.

Two values are equal when they are the same number: null equals null, NaN equals NaN, and 0.0 equals -0.0 (the exchange's
decimal strings have one zero; the content hash of the lake agrees). A difference in the last digit is a difference.
A bar that stands more than once on a side cannot be compared: it is reported as a duplicate and is not equal, even if
its copies are. Nothing compared is no proof: two empty frames match to 0 %.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import polars as pl

from ohlcv_assets.bars import KEY, SCHEMA, VALUES, conform

Kind = Literal["duplicate_left", "duplicate_right", "only_left", "only_right", "value_differs"]

_RIGHT = "_right"
#: Null-safe and exact: null differs from every value and from no null.
_DIFFERS = {name: pl.col(name).ne_missing(pl.col(f"{name}{_RIGHT}")) for name in VALUES}

#: One row a differing column; of a bar that is missing or duplicate, one row with `column` null and, as left and
#: right, how many rows each side has. `trade_count` is shown as a float (exact below 2**53; it is compared as int).
DIFFERENCES_SCHEMA: dict[str, pl.DataType] = {
    **{name: SCHEMA[name] for name in KEY},
    "kind": pl.String(),
    "column": pl.String(),
    "left": pl.Float64(),
    "right": pl.Float64(),
}


@dataclass(frozen=True)
class MatchReport:
    """What the comparison of two frames found; the counts are of bars, that is of distinct keys.

    `union == equal + differing + only_left + only_right + duplicated`, always.

    Attributes:
        rows_left: rows of the left frame; `rows_right` of the right one.
        union: keys that are on either side.
        equal: keys once on each side, with every value the same.
        differing: keys once on each side, with some value not the same.
        only_left: keys that the right side lacks; `only_right` the other way round.
        duplicated: keys that stand more than once on some side.
        duplicate_left: rows of the left frame beyond the first of their key; `duplicate_right` of the right one.
        differences: `DIFFERENCES_SCHEMA`, duplicates first, then by key and by the bar's order of columns.
    """

    rows_left: int
    rows_right: int
    union: int
    equal: int
    differing: int
    only_left: int
    only_right: int
    duplicated: int
    duplicate_left: int
    duplicate_right: int
    differences: pl.DataFrame

    @property
    def match_pct(self) -> float:
        """100 * equal / union: of all bars that anyone has; 0 where there are none. Exactly 100.0 only for a match."""
        return 100.0 * self.equal / self.union if self.union else 0.0

    @property
    def is_match(self) -> bool:
        """Whether both sides hold the same bars, at least one, each once, with the same values."""
        return self.union > 0 and self.equal == self.union

    def counts(self) -> Mapping[str, int]:
        """The counts by name."""
        return {name: value for name, value in vars(self).items() if isinstance(value, int)}


def match(left: pl.DataFrame, right: pl.DataFrame) -> MatchReport:
    """Compare two captures bar by bar.

    Args:
        left: rows with the key and value columns of a bar, in any order; further columns are not looked at.
        right: the same.

    Raises:
        InvalidBars: a key or value column is absent or of another dtype (nothing is cast).
    """
    left, right = (conform(side).select(*KEY, *VALUES) for side in (left, right))
    if _each_key_once(left) and _each_key_once(right):
        return _match_of_ordered(left, right)
    copies = _copies(left, right)
    joined = _joined(_without(left, copies), _without(right, copies))
    only_left = joined.filter(pl.col("_in_right").is_null())
    only_right = joined.filter(pl.col("_in_left").is_null())
    differing = joined.filter(pl.col("_in_left") & pl.col("_in_right") & pl.any_horizontal(_DIFFERS.values()))
    equal = joined.height - only_left.height - only_right.height - differing.height
    return _report(left, right, copies, only_left, only_right, differing, equal)


def differing_rows(left: pl.DataFrame, right: pl.DataFrame) -> pl.Series:
    """Whether two bars are not the same, of bars that stand in the same row of both frames (Boolean, one a row).

    Args:
        left: value columns of bars.
        right: as many, of the same keys in the same order.
    """
    differs = [left[name].ne_missing(right[name]) for name in VALUES]
    return pl.select(pl.any_horizontal(differs)).to_series()


def _report(
    left: pl.DataFrame,
    right: pl.DataFrame,
    copies: pl.DataFrame,
    only_left: pl.DataFrame,
    only_right: pl.DataFrame,
    differing: pl.DataFrame,
    equal: int,
) -> MatchReport:
    return MatchReport(
        rows_left=left.height,
        rows_right=right.height,
        union=equal + differing.height + only_left.height + only_right.height + copies.height,
        equal=equal,
        differing=differing.height,
        only_left=only_left.height,
        only_right=only_right.height,
        duplicated=copies.height,
        duplicate_left=_surplus(copies, "left"),
        duplicate_right=_surplus(copies, "right"),
        differences=_differences(copies, only_left, only_right, differing),
    )


def _each_key_once(side: pl.DataFrame) -> bool:
    """Whether the keys are without null and each greater than the one before it, as both stores give them."""
    if any(side[name].has_nulls() for name in KEY):
        return False
    before, after = side.head(-1), side.tail(-1)
    # Compared from the last part of the key to the first: a part decides where all parts before it are the same.
    ascending = after["timestamp"] > before["timestamp"]
    for name in ("symbol", "market"):
        ascending = (after[name] > before[name]) | ((after[name] == before[name]) & ascending)
    return ascending.all()


def _match_of_ordered(left: pl.DataFrame, right: pl.DataFrame) -> MatchReport:
    """The match of sides that hold each key once, in order: what both have stands in the same row, and needs no join."""
    only_left, only_right = left.clear(), right.clear()
    if not left.select(KEY).equals(right.select(KEY)):
        only_left, only_right = left.join(right, on=KEY, how="anti"), right.join(left, on=KEY, how="anti")
    here, there = _less(left, only_left), _less(right, only_right)
    differs = differing_rows(here, there)
    values = there.filter(differs).select(pl.col(VALUES).name.suffix(_RIGHT))
    differing = pl.concat([here.filter(differs), values], how="horizontal")
    nothing = pl.DataFrame(schema={**{name: SCHEMA[name] for name in KEY}, "left": pl.Float64, "right": pl.Float64})
    return _report(left, right, nothing, only_left, only_right, differing, here.height - differing.height)


def _less(side: pl.DataFrame, some: pl.DataFrame) -> pl.DataFrame:
    return side if some.is_empty() else side.join(some, on=KEY, how="anti", maintain_order="left")


def _copies(left: pl.DataFrame, right: pl.DataFrame) -> pl.DataFrame:
    """The keys that stand more than once on some side, and on how many rows of each: `*KEY, left, right`."""
    counted = [side.group_by(KEY).agg(pl.len().alias("rows")) for side in (left, right)]
    repeated = pl.concat([side.filter(pl.col("rows") > 1).select(KEY) for side in counted]).unique()
    for name, side in zip(("left", "right"), counted, strict=True):
        rows = pl.col("rows").fill_null(0).cast(pl.Float64).alias(name)
        repeated = repeated.join(side, on=KEY, how="left", nulls_equal=True).with_columns(rows).drop("rows")
    return repeated


def _surplus(copies: pl.DataFrame, side: str) -> int:
    return int((copies[side] - 1).clip(lower_bound=0).sum())


def _without(side: pl.DataFrame, copies: pl.DataFrame) -> pl.DataFrame:
    return side if copies.is_empty() else side.join(copies, on=KEY, how="anti", nulls_equal=True)


def _joined(left: pl.DataFrame, right: pl.DataFrame) -> pl.DataFrame:
    """Every key of either side once, with the values of both; `_in_left`, `_in_right` are true or null."""
    return left.with_columns(_in_left=True).join(
        right.with_columns(_in_right=True), on=KEY, how="full", coalesce=True, suffix=_RIGHT, nulls_equal=True
    )


def _differences(
    copies: pl.DataFrame, only_left: pl.DataFrame, only_right: pl.DataFrame, differing: pl.DataFrame
) -> pl.DataFrame:
    parts = [
        _whole_bars(copies.filter(pl.col("left") > 1), "duplicate_left", pl.col("left"), pl.col("right")),
        _whole_bars(copies.filter(pl.col("right") > 1), "duplicate_right", pl.col("left"), pl.col("right")),
        _whole_bars(only_left, "only_left", pl.lit(1.0), pl.lit(0.0)),
        _whole_bars(only_right, "only_right", pl.lit(0.0), pl.lit(1.0)),
        *(_values(differing, name) for name in VALUES),
    ]
    numbered = [part.with_columns(_part=pl.lit(number)) for number, part in enumerate(parts)]
    duplicates_first = pl.col("kind").str.starts_with("duplicate").not_()
    return pl.concat(numbered).sort(duplicates_first, *KEY, "_part").drop("_part")


def _whole_bars(bars: pl.DataFrame, kind: Kind, left: pl.Expr, right: pl.Expr) -> pl.DataFrame:
    return bars.select(*KEY, kind=pl.lit(kind), column=pl.lit(None, pl.String), left=left, right=right)


def _values(differing: pl.DataFrame, name: str) -> pl.DataFrame:
    return differing.filter(_DIFFERS[name]).select(
        *KEY,
        kind=pl.lit("value_differs"),
        column=pl.lit(name),
        left=pl.col(name).cast(pl.Float64),
        right=pl.col(f"{name}{_RIGHT}").cast(pl.Float64),
    )
