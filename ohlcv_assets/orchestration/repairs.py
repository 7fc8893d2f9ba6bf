"""The assets that repair: recent_repair an hour at a time, daily_repair a day at a time; their QA comes after them.

Lives here: which two stores each compares and repairs, and what the UI shows of it. Does not: the repair
(quality/repair.py), or when one is asked for (repair_sensor.py).

A repair trusts no old verdict: it compares what is stored now. What it cannot decide is no error of its run; the QA after it
is red as long as something differs. Annotations are not postponed in this module: Dagster reads them when an asset is defined.
"""

import asyncio
import time
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, closing
from typing import Any

import dagster as dg
import polars as pl

from ohlcv_assets.exchange.binance import Exchange
from ohlcv_assets.instruments import Market, Universe
from ohlcv_assets.orchestration import metadata
from ohlcv_assets.orchestration.common import asset_key, failures
from ohlcv_assets.orchestration.partitions import (
    DAYS_OF_A_RUN,
    daily_partitions,
    day_of,
    hour_of,
    recent_partitions,
    selected_keys,
)
from ohlcv_assets.orchestration.resources import DatabaseResource, ExchangeResource, LakeResource, UniverseResource
from ohlcv_assets.quality.repair import Limits, RepairReport, newest, repair
from ohlcv_assets.quality.sides import DaySide, FetchedSide, HourSide
from ohlcv_assets.settings import Settings
from ohlcv_assets.storage.database import Database
from ohlcv_assets.storage.lake import Lake

#: The fetched side of a partition, in an opened lake.
_SideOf = Callable[[Lake, Universe, str], FetchedSide]


class RepairConfig(dg.Config):
    """What a person may decide in the launchpad about a repair."""

    confirm: bool = False
    """Whether more bars than OHLCV_REPAIR_LIMIT_BARS may be repaired at once."""


def build_repair_assets(settings: Settings, market: Market) -> list[dg.AssetsDefinition]:
    """The two assets of a market that repair what its captures do not agree on."""
    return [build_recent_repair(settings, market), build_daily_repair(settings, market)]


def build_recent_repair(settings: Settings, market: Market) -> dg.AssetsDefinition:
    """The hour so far: PostgreSQL against the windows that were fetched meanwhile."""

    def side(lake: Lake, universe: Universe, key: str) -> FetchedSide:
        return HourSide(lake, market, universe, hour_of(key))

    return _build(settings, market, "recent", recent_partitions(settings), side)


def build_daily_repair(settings: Settings, market: Market) -> dg.AssetsDefinition:
    """A whole day: PostgreSQL against the day's file."""

    def side(lake: Lake, universe: Universe, key: str) -> FetchedSide:
        return DaySide(lake, market, universe, day_of(key))

    return _build(settings, market, "daily", daily_partitions(settings, market), side)


def _build(
    settings: Settings, market: Market, kind: str, partitions: dg.TimeWindowPartitionsDefinition, side_of: _SideOf
) -> dg.AssetsDefinition:
    @dg.asset(
        key=asset_key(settings, market, f"{kind}_repair"),
        group_name=market.value,
        kinds={"polars"},
        tags={"market": market.value},
        partitions_def=partitions,
        deps=[asset_key(settings, market, "streamed_bars"), asset_key(settings, market, f"{kind}_bars")],
        # As its QA, so that a backfill of both is one.
        backfill_policy=DAYS_OF_A_RUN if kind == "daily" else None,
        description=f"What differs between streamed_bars and {kind}_bars of {market} is fetched a third time; the side "
        "that this contradicts gets a revision, or a new version of its file. What it cannot decide stays red.",
    )
    def repaired(
        context: dg.AssetExecutionContext,
        config: RepairConfig,
        exchange: ExchangeResource,
        database: DatabaseResource,
        lake: LakeResource,
        universe: UniverseResource,
    ) -> None:
        limits = Limits(settings.repair_limit_bars, confirm=config.confirm)
        with failures(), closing(database.open()) as store:
            opened, released = lake.open(), universe.load()
            for key in selected_keys(context):
                started_s = time.monotonic()
                side = side_of(opened, released, key)
                report = asyncio.run(
                    _repair(exchange.open(market), store, side, released, limits, context.run.run_id)
                )
                facts = {**_of_repair(report), "taken_s": time.monotonic() - started_s}
                context.add_asset_metadata(facts, partition_key=key)

    return repaired


async def _repair(
    opening: AbstractAsyncContextManager[Exchange],
    store: Database,
    side: FetchedSide,
    universe: Universe,
    limits: Limits,
    run_id: str,
) -> RepairReport:
    async with opening as exchange:
        verdict = newest(store, side, universe, exchange.market)
        return await repair(exchange, store, side, verdict, limits=limits, run_id=run_id)


def _of_repair(report: RepairReport) -> dict[str, Any]:
    facts: dict[str, Any] = dict(report.summary())
    if not report.decisions.is_empty():
        # What needs a person first, then what was done.
        waits_first = pl.col("side") != "none"
        facts["first_decisions"] = metadata.table(report.decisions.sort(waits_first, maintain_order=True))
    if report.kept:
        facts["former_files"] = dg.MetadataValue.json(list(report.kept))
    return facts
