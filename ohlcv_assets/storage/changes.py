"""What became known between two moments: the difference of two as-of reads, from either store.

Lives here: the columns of that answer, and how it follows from what was known before and after. Does not: the reading
(database.py, lake.py), or the comparison of two captures, which is no matter of time (quality/match.py).

Two values are equal when they are the same number: 0.0 equals -0.0, as everywhere. A bar that went and came back between the
two moments has not changed.
"""

from __future__ import annotations

import polars as pl

from ohlcv_assets.bars import KEY, SCHEMA, VALUES

#: One row a column that changed (`kind` changed, `column` its name), or a bar that was not known before (`new`) or no
#: longer is (`gone`; only a replaced file can lack one), then with `column`, `before` and `after` null. `trade_count` is shown
#: as a float (exact below 2**53; it is compared as int). `knowledge_timestamp`: when the later one was stored; `reason`: of the
#: revision that says so, null where the store keeps none.
CHANGES_SCHEMA: dict[str, pl.DataType] = {
    "symbol": pl.String(),
    "timestamp": pl.Int64(),
    "kind": pl.String(),
    "column": pl.String(),
    "before": pl.Float64(),
    "after": pl.Float64(),
    "knowledge_timestamp": SCHEMA["knowledge_timestamp"],
    "reason": pl.String(),
}
_AFTER = "_after"


def changes(before: pl.DataFrame, after: pl.DataFrame) -> pl.DataFrame:
    """The difference of what was known before and after of the same bars, of one market.

    Args:
        before: `SCHEMA`, each key once.
        after: `SCHEMA`, each key once; `reason` (String) if there is one.

    Returns:
        `CHANGES_SCHEMA`, sorted by symbol, timestamp and the bar's order of columns.
    """
    told = after if "reason" in after.columns else after.with_columns(reason=pl.lit(None, pl.String()))
    both = before.join(told, on=KEY, how="inner", suffix=_AFTER)
    # A bar that is gone became so when the file without it was stored.
    gone = before.join(told, on=KEY, how="anti").with_columns(
        pl.lit(told["knowledge_timestamp"].max(), SCHEMA["knowledge_timestamp"]).alias("knowledge_timestamp")
    )
    found = [
        *(_of_column(both, name) for name in VALUES),
        _whole(told.join(before, on=KEY, how="anti"), "new"),
        _whole(gone.with_columns(reason=pl.lit(None, pl.String())), "gone"),
    ]
    return pl.concat(found).sort("symbol", "timestamp", maintain_order=True)


def _of_column(both: pl.DataFrame, name: str) -> pl.DataFrame:
    return both.filter(pl.col(name) != pl.col(f"{name}{_AFTER}")).select(
        "symbol",
        "timestamp",
        pl.lit("changed").alias("kind"),
        pl.lit(name).alias("column"),
        pl.col(name).cast(pl.Float64).alias("before"),
        pl.col(f"{name}{_AFTER}").cast(pl.Float64).alias("after"),
        pl.col(f"knowledge_timestamp{_AFTER}").alias("knowledge_timestamp"),
        "reason",
    )


def _whole(bars: pl.DataFrame, kind: str) -> pl.DataFrame:
    nothing = [pl.lit(None, CHANGES_SCHEMA[name]).alias(name) for name in ("column", "before", "after")]
    return bars.select("symbol", "timestamp", pl.lit(kind).alias("kind"), *nothing, "knowledge_timestamp", "reason")
