"""The asset `history`: the last days fetched again every week, and the check that the exchange says of them what it said.

Lives here: the asset, its check, its job, and what the UI shows of a verification. Does not: the verification
(quality/history.py), or the hour at which it is done (schedules.py).

The asset has no partitions: a verification is of the last thirty days, and its check is red or green as a whole. Annotations
are not postponed in this module: Dagster reads them when an asset is defined.
"""

import asyncio
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing
from datetime import date
from typing import Any

import dagster as dg
from pydantic import Field

from ohlcv_assets.errors import DatabaseUnavailable, UsageError
from ohlcv_assets.instruments import Market
from ohlcv_assets.orchestration import metadata
from ohlcv_assets.orchestration.common import asset_key, failures
from ohlcv_assets.orchestration.preview import UnresolvedAssetJobDefinition
from ohlcv_assets.orchestration.resources import DatabaseResource, ExchangeResource, LakeResource, UniverseResource
from ohlcv_assets.quality.history import last_days, verify
from ohlcv_assets.quality.history_report import DayVerified, Verification
from ohlcv_assets.settings import Settings
from ohlcv_assets.storage.quality_store import QualityStore

HISTORY_UNCHANGED = "history_unchanged"
MEANING = (
    "The exchange says of the days in the lake what it said when they were downloaded. When red: the table names what "
    "changed, before and after. A day whose bars changed has a new version already, the old one is kept; materialize its "
    "daily_qa again. Where bars vanished nothing was replaced: verify that day with `accept: true` to take it over."
)
#: Thirty days of two hundred symbols are a quarter of an hour of the request weight; a run that hangs must end.
_MAX_RUNTIME_S = 3 * 3600


class HistoryConfig(dg.Config):
    """What a person may decide in the launchpad about a verification."""

    since_days: int = 30
    """How many of the last UTC days that are over are verified."""
    days: list[str] = Field(default=[])
    """Exactly these UTC days instead, such as 2025-06-01."""
    accept: bool = False
    """Whether a day of which bars vanished, or a damaged file, is replaced as well."""


def build_history(settings: Settings, market: Market) -> dg.AssetsDefinition:
    """The asset `history` of a market with its check `history_unchanged`."""
    key = asset_key(settings, market, "history")

    @dg.asset(
        key=key,
        group_name=market.value,
        kinds={"polars"},
        tags={"market": market.value},
        deps=[asset_key(settings, market, "daily_bars")],
        check_specs=[dg.AssetCheckSpec(HISTORY_UNCHANGED, asset=key, description=MEANING)],
        description=f"The last days of {market} fetched once more, and compared with what the lake holds of them.",
    )
    def history(
        context: dg.AssetExecutionContext,
        config: HistoryConfig,
        exchange: ExchangeResource,
        database: DatabaseResource,
        lake: LakeResource,
        universe: UniverseResource,
    ) -> Iterator[dg.MaterializeResult[Any]]:
        started_s = time.monotonic()
        with failures(), ExitStack() as opened:
            store = _findings(context, database, opened)

            async def verified() -> Verification:
                async with exchange.open(market) as venue:
                    days = _days(config.days) or last_days(venue.clock, config.since_days)
                    return await verify(
                        venue,
                        lake.open(),
                        universe.load(),
                        days,
                        run_id=context.run.run_id,
                        findings=store,
                        accept=config.accept,
                        on_day=lambda day: _tell(context, day),
                    )

            found = asyncio.run(verified())
        yield dg.MaterializeResult(
            metadata={**found.summary(), "taken_s": time.monotonic() - started_s}, check_results=[_evaluated(found)]
        )
        if found.unavailable is not None:
            # Only now: what was found before the outage is stored, and told.
            raise dg.Failure(found.sentence(), allow_retries=True)

    return history


def build_history_job(settings: Settings, market: Market) -> UnresolvedAssetJobDefinition:
    """The job `<market>_verify_history`."""
    return dg.define_asset_job(
        f"{market}_verify_history",
        dg.AssetSelection.assets(asset_key(settings, market, "history")),
        description=f"Fetches the last days of {market} once more and compares them with the lake.",
        executor_def=dg.in_process_executor,
        tags={"ohlcv/market": market.value, "dagster/max_runtime": str(_MAX_RUNTIME_S)},
    )


def _days(texts: list[str]) -> list[date]:
    try:
        return [date.fromisoformat(text) for text in texts]
    except ValueError as error:
        raise UsageError(f"{', '.join(texts)}: {error}", hint="write days as 2025-06-01") from error


def _findings(
    context: dg.AssetExecutionContext, database: DatabaseResource, opened: ExitStack
) -> QualityStore | None:
    """The store of findings; None while PostgreSQL is away, for the lake and the check tell them as well."""
    try:
        return QualityStore(opened.enter_context(closing(database.open())))
    except DatabaseUnavailable as error:
        context.log.warning(f"findings will not be in PostgreSQL: {error}")
        return None


def _tell(context: dg.AssetExecutionContext, day: DayVerified) -> None:
    told = context.log.warning if day.is_finding else context.log.info
    told(day.sentence)


def _evaluated(found: Verification) -> dg.AssetCheckResult:
    numbers: dict[str, Any] = {**found.summary(), "changes_digest": found.digest() or "none"}
    changes = found.changes()
    if not changes.is_empty():
        numbers["first_changes"] = metadata.table(changes.with_columns(changes["day"].cast(str)))
    for day in found.findings[:10]:
        if day.differences:
            numbers[f"differences_{day.day:%Y_%m_%d}"] = dg.MetadataValue.path(day.differences)
    compared = numbers["days_verified"] > 0
    return dg.AssetCheckResult(
        check_name=HISTORY_UNCHANGED,
        # Where nothing was compared nothing is proven, and nothing is wrong either.
        passed=found.is_unchanged and compared,
        severity=dg.AssetCheckSeverity.WARN if found.is_unchanged else dg.AssetCheckSeverity.ERROR,
        description=found.sentence(),
        metadata=numbers,
    )
