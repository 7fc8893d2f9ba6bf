"""The jobs of a market: an hour of streaming, the hour so far compared, a day with its QA, its QA alone, the repair of either.

Lives here: which assets a job holds and how its runs are executed. Does not: when (sensors.py, schedules.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import dagster as dg

from ohlcv_assets.instruments import Market
from ohlcv_assets.orchestration.common import asset_key
from ohlcv_assets.orchestration.preview import UnresolvedAssetJobDefinition
from ohlcv_assets.settings import Settings

# One process a run: a step of its own would import the code location a second time, four seconds for nothing.
_EXECUTOR = dg.in_process_executor


@dataclass(frozen=True)
class MarketJobs:
    """The jobs of one market."""

    stream_hour: UnresolvedAssetJobDefinition
    recent: UnresolvedAssetJobDefinition
    day: UnresolvedAssetJobDefinition
    day_qa: UnresolvedAssetJobDefinition
    recent_repair: UnresolvedAssetJobDefinition
    day_repair: UnresolvedAssetJobDefinition

    def all(self) -> list[UnresolvedAssetJobDefinition]:
        """The jobs as a list, in the order of the data's way."""
        return [self.stream_hour, self.recent, self.day, self.day_qa, self.recent_repair, self.day_repair]


def build_jobs(settings: Settings, market: Market) -> MarketJobs:
    """The jobs `<market>_stream_hour`, `_recent`, `_day`, `_day_qa`, `_recent_repair` and `_day_repair`."""
    names = ("streamed_bars", "recent_bars", "recent_qa", "daily_bars", "daily_qa")
    streamed, recent, recent_qa, daily, qa = (asset_key(settings, market, name) for name in names)
    book = asset_key(settings, market, "ledger")
    recent_repair, day_repair = (asset_key(settings, market, name) for name in ("recent_repair", "daily_repair"))
    tags = {"ohlcv/market": market.value}
    return MarketJobs(
        stream_hour=dg.define_asset_job(
            f"{market}_stream_hour",
            dg.AssetSelection.assets(streamed),
            description=f"Streams one UTC hour of {market} into PostgreSQL; what is over already is fetched by REST.",
            executor_def=_EXECUTOR,
            tags=tags,
        ),
        recent=dg.define_asset_job(
            f"{market}_recent",
            dg.AssetSelection.assets(recent, recent_qa),
            description=f"Fetches what is due of an hour of {market} by REST, and compares the hour so far.",
            executor_def=_EXECUTOR,
            tags=tags,
        ),
        day=dg.define_asset_job(
            f"{market}_day",
            dg.AssetSelection.assets(daily, qa, book),
            description=f"Downloads one UTC day of {market} by REST into the lake, compares it with what was streamed, and "
            "keeps the ledger.",
            executor_def=_EXECUTOR,
            tags=tags,
        ),
        day_qa=dg.define_asset_job(
            f"{market}_day_qa",
            dg.AssetSelection.assets(qa, book),
            description=f"Compares one UTC day of {market}, streamed and fetched, bar for bar, again; so does the ledger.",
            executor_def=_EXECUTOR,
            tags=tags,
        ),
        recent_repair=dg.define_asset_job(
            f"{market}_recent_repair",
            dg.AssetSelection.assets(recent_repair, recent_qa),
            description=f"Fetches what differs in an hour of {market} a third time, repairs what this decides, compares again.",
            executor_def=_EXECUTOR,
            tags=tags,
        ),
        day_repair=dg.define_asset_job(
            f"{market}_day_repair",
            dg.AssetSelection.assets(day_repair, qa, book),
            description=f"Fetches what differs in a day of {market} a third time, repairs what this decides, compares again.",
            executor_def=_EXECUTOR,
            tags=tags,
        ),
    )


def repair_jobs(jobs: Mapping[Market, MarketJobs]) -> dict[tuple[Market, str], UnresolvedAssetJobDefinition]:
    """The repair job of each market and QA asset."""
    return {
        (market, asset): job
        for market, each in jobs.items()
        for asset, job in (("recent_qa", each.recent_repair), ("daily_qa", each.day_repair))
    }
