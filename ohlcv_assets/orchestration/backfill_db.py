"""The backfill of PostgreSQL between two moments: the asset backfilled_bars, its check, and the job that runs it.

Lives here: what a person fills in (start and end), and how the outcome is shown. Does not: the backfill (quality/backfill.py),
which `ohlcv backfill-db` calls as well.

It is an asset without partitions, and not a bare job: each run is then a point in the plots of one page, the check
`backfill_complete` has its history there and can alert as all others do, and the asset stands in the market's group where an
operator looks. It has no partitions because an outage does not end at a full hour; nothing lies below it and no schedule
runs it. A range of days or hours as partitions is what daily_bars and streamed_bars are backfilled by.

Annotations are not postponed in this module: Dagster reads them when an asset is defined.
"""

import asyncio
import time
from collections.abc import Callable
from contextlib import closing
from typing import Any

import dagster as dg
from pydantic import Field

from ohlcv_assets.bulk import Done
from ohlcv_assets.instruments import Market
from ohlcv_assets.orchestration import metadata
from ohlcv_assets.orchestration.common import asset_key, failures
from ohlcv_assets.orchestration.preview import UnresolvedAssetJobDefinition
from ohlcv_assets.orchestration.resources import DatabaseResource, ExchangeResource, UniverseResource
from ohlcv_assets.quality.backfill import Backfilled, backfill
from ohlcv_assets.quality.completeness import missing_ranges
from ohlcv_assets.settings import Settings
from ohlcv_assets.storage.database import Database
from ohlcv_assets.timestamps import Interval

BACKFILL_COMPLETE = "backfill_complete"
MEANING = (
    "After a backfill, PostgreSQL holds every minute of its interval of every symbol that was listed, once. When red: the "
    "table names each missing range; run the job again with the same start and end, and `only_missing: true`."
)
#: How often a running backfill says in its log how far it is, in seconds of our own time.
_TELL_EVERY_S = 15.0


class BackfillConfig(dg.Config):
    """What a person fills in in the launchpad.

    It has no validators: the launchpad looks at names and types alone (Dagster 1.13), and in the run a validator's own error stands
    below more stack than the one of `Interval.parse`, which is the run's first step.
    """

    start: str = Field(description="First moment, ISO 8601 with a zone: 2025-06-01T05:00Z, or a UTC day: 2025-06-01.")
    end: str = Field(description="The end, which is not part of it: 2025-06-01T09:00Z, or 2025-06-02.")
    only_missing: bool = Field(
        default=False,
        description="Fetch only what is not stored. Off: fetch all of it, and keep what differs as revisions.",
    )


def build_backfilled_bars(settings: Settings, market: Market) -> dg.AssetsDefinition:
    """Bars fetched by REST into PostgreSQL between two moments, with the check that all are there."""
    key = asset_key(settings, market, "backfilled_bars")

    @dg.asset(
        key=key,
        group_name=market.value,
        kinds={"postgres"},
        tags={"market": market.value},
        check_specs=[dg.AssetCheckSpec(BACKFILL_COMPLETE, asset=key, description=MEANING)],
        description=f"One-minute bars of {market} fetched by REST into PostgreSQL, between a start and an end that are "
        "given in the launchpad. Nothing is overwritten: what differs from a stored bar becomes a revision.",
    )
    def backfilled_bars(
        context: dg.AssetExecutionContext,
        config: BackfillConfig,
        exchange: ExchangeResource,
        database: DatabaseResource,
        universe: UniverseResource,
    ) -> dg.MaterializeResult:  # type: ignore[type-arg]  # Dagster knows the class only without its parameter
        started_s = time.monotonic()
        with failures():
            interval = Interval.parse(config.start, config.end)
            symbols = universe.load().symbols[market]

            async def run(store: Database) -> Backfilled:
                async with exchange.open(market) as opened:
                    return await backfill(
                        opened,
                        store,
                        symbols,
                        interval,
                        run_id=context.run.run_id,
                        only_missing=config.only_missing,
                        on_plan=lambda plan: context.log.info(f"plan: {plan.facts()}"),
                        on_done=_telling(context),
                    )

            with closing(database.open()) as store:
                result = asyncio.run(run(store))
        return _shown(result, time.monotonic() - started_s)

    return backfilled_bars


def build_backfill_job(settings: Settings, market: Market) -> UnresolvedAssetJobDefinition:
    """The job `<market>_backfill_db`; no schedule."""
    return dg.define_asset_job(
        f"{market}_backfill_db",
        dg.AssetSelection.assets(asset_key(settings, market, "backfilled_bars")),
        description=f"Fetches an interval of {market} by REST into PostgreSQL, and proves that every expected bar is there. "
        "Start and end are filled in in the launchpad.",
        executor_def=dg.in_process_executor,
        tags={"ohlcv/market": market.value},
    )


def _telling(context: dg.AssetExecutionContext) -> Callable[[Done], None]:
    told_s = time.monotonic()

    def tell(done: Done) -> None:
        nonlocal told_s
        if time.monotonic() - told_s >= _TELL_EVERY_S:
            told_s = time.monotonic()
            context.log.info(f"so far: {done.facts()}")

    return tell


def _shown(result: Backfilled, taken_s: float) -> dg.MaterializeResult[Any]:
    facts: dict[str, Any] = {**result.facts(), "taken_s": taken_s}
    found: dict[str, Any] = dict(result.facts())
    if not result.missing.is_empty():
        found["missing_ranges"] = metadata.table(missing_ranges(result.missing))
    check = dg.AssetCheckResult(
        check_name=BACKFILL_COMPLETE,
        passed=result.is_complete,
        severity=dg.AssetCheckSeverity.ERROR,
        description=result.sentence,
        metadata=found,
    )
    return dg.MaterializeResult(metadata=facts, check_results=[check])
