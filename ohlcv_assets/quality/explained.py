"""Minutes that neither side has, and that are proven not to be there: the exchange stood still, or the symbol was not listed.

Lives here: which gaps of a verdict the ledger explains. Does not: the states and the proofs (ledger.py, causes.py). A gap that is
explained is none that anybody could fill: no check is red for it, and every page still shows it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import polars as pl

from ohlcv_assets.quality.ledger import State, ledger
from ohlcv_assets.timestamps import MINUTE_MS, Interval

if TYPE_CHECKING:
    from ohlcv_assets.quality.causes import Evidence
    from ohlcv_assets.quality.verdict import Verdict

#: One row a minute; `state` is `halted` or `not_listed`.
EXPLAINED_SCHEMA: dict[str, pl.DataType] = {"symbol": pl.String(), "timestamp": pl.Int64(), "state": pl.String()}
_EXPLAINING = (State.HALTED, State.NOT_LISTED)


def nothing_explained() -> pl.DataFrame:
    """`EXPLAINED_SCHEMA` without a row."""
    return pl.DataFrame(schema=EXPLAINED_SCHEMA)


def explained_gaps(verdict: Verdict, evidence: Callable[[], Evidence]) -> pl.DataFrame:
    """The minutes that both sides lack and that are proven not to be there: `EXPLAINED_SCHEMA`, sorted.

    Args:
        verdict: both sides of an interval.
        evidence: gathers what is known beside the bars; called only where there is a gap.
    """
    lacking = verdict.both_lack()
    if lacking.is_empty():
        return nothing_explained()
    found = ledger(verdict.streamed, verdict.fetched, verdict.symbols, verdict.market, verdict.interval, evidence())
    spread = pl.int_ranges("start", "end", MINUTE_MS).alias("timestamp")
    known = found.ranges.filter(pl.col("state").is_in([state.value for state in _EXPLAINING])).with_columns(spread)
    minutes = known.explode("timestamp", empty_as_null=False).select(list(EXPLAINED_SCHEMA))
    return minutes.join(lacking, on=["symbol", "timestamp"], how="semi").sort("symbol", "timestamp")


def unexplained(missing: pl.DataFrame, explained: pl.DataFrame) -> pl.DataFrame:
    """Those of the missing minutes that nothing explains; the columns of `missing`."""
    return missing.join(explained, on=["symbol", "timestamp"], how="anti")


def never_listed(explained: pl.DataFrame, interval: Interval) -> frozenset[str]:
    """The symbols that were not listed in any minute of the interval."""
    counted = explained.filter(pl.col("state") == State.NOT_LISTED.value).group_by("symbol").len()
    return frozenset(counted.filter(pl.col("len") == len(interval.minutes))["symbol"].to_list())


def due_interval(interval: Interval, explained: pl.DataFrame, symbols: int) -> Interval:
    """The interval less the minutes at its end in which no symbol could have a bar; at least its first minute."""
    end_ms = interval.end_ms
    everywhere = set(explained.group_by("timestamp").len().filter(pl.col("len") == symbols)["timestamp"].to_list())
    while end_ms - MINUTE_MS > interval.start_ms and end_ms - MINUTE_MS in everywhere:
        end_ms -= MINUTE_MS
    return Interval(interval.start_ms, end_ms)
