"""What Dagster loads for `make bench-backfill`: the platform, and daily_bars once more for each backfill policy that is measured.

Lives here: the same asset under several keys. Does not: any other way to download a day: the code is the platform's own.
"""

from __future__ import annotations

import dagster as dg

from ohlcv_assets.definitions import build_defs
from ohlcv_assets.instruments import Market
from ohlcv_assets.orchestration.assets import build_daily_bars
from ohlcv_assets.settings import Settings, read_settings

#: Days a run, by the name under which the asset stands; None: all of them in one.
POLICIES: dict[str, int | None] = {"one_day": 1, "week": 7, "month": 31, "all": None}


def asset_name(policy: str) -> str:
    """The name of the asset with this policy."""
    return f"daily_bars_{policy}"


def _variant(settings: Settings, market: Market, policy: str, days: int | None) -> dg.AssetsDefinition:
    runs = dg.BackfillPolicy.multi_run(days) if days else dg.BackfillPolicy.single_run()
    return build_daily_bars(settings, market, name=asset_name(policy), policy=runs)


def _defs(settings: Settings) -> dg.Definitions:
    variants = [_variant(settings, market, *policy) for market in Market for policy in POLICIES.items()]
    platform = build_defs(settings=settings)
    return dg.Definitions(
        assets=[*(platform.assets or ()), *variants],
        jobs=platform.jobs,
        schedules=platform.schedules,
        sensors=platform.sensors,
        resources=platform.resources,
        executor=platform.executor,
    )


defs = _defs(read_settings())
