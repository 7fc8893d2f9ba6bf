"""Gathering the evidence of a day's gaps from where each piece of it is kept.

Lives here: which store says what. Does not: what follows from it (causes.py).
"""

from __future__ import annotations

from datetime import date
from typing import TYPE_CHECKING

import polars as pl

from ohlcv_assets.quality.causes import REPAIRED_SCHEMA, Evidence
from ohlcv_assets.storage.lake import Signature
from ohlcv_assets.storage.quality_store import QualityStore
from ohlcv_assets.timestamps import Interval

if TYPE_CHECKING:
    from ohlcv_assets.instruments import Market, Universe
    from ohlcv_assets.storage.database import Database
    from ohlcv_assets.storage.lake import Lake

#: Revisions that a repair has made give a reason that begins so.
REPAIR_REASON = "repair"


def evidence_of_day(database: Database, lake: Lake, universe: Universe, market: Market, day: date) -> Evidence:
    """What is known of a UTC day beside its bars.

    Args:
        database: the connection log, the audit trail of repairs, and the revisions.
        lake: what the day's download found not to be there.
        universe: when its symbols were listed.
        market: of all of it.
        day: the UTC day.
    """
    interval, store = Interval.of_day(day), QualityStore(database)
    return Evidence(
        listing=universe.listings,
        absent=lake.read_absent(Signature.daily(market, universe), day),
        stream_minutes=store.stream_minutes(market, interval),
        repaired=_repaired(store.repairs(market, interval), database.revisions(market, interval)),
    )


def _repaired(repairs: pl.DataFrame, revisions: pl.DataFrame) -> pl.DataFrame:
    """The bars that a repair has changed on either side, with the number of the repair (`REPAIRED_SCHEMA`)."""
    changed = repairs.filter(pl.col("side") != "none").select(list(REPAIRED_SCHEMA))
    by_repair = revisions.filter(pl.col("reason").str.starts_with(REPAIR_REASON)).select("symbol", "timestamp")
    unnumbered = by_repair.with_columns(repair=pl.lit(None, pl.Int64)).select(list(REPAIRED_SCHEMA))
    return pl.concat([changed, unnumbered])
