"""Everything that Dagster loads: `defs`, built by `build_defs` from the settings.

Lives here: the explicit list of assets, jobs, schedules, sensors and resources. Does not: any of them
(orchestration/). Loading this module opens no connection and imports neither ccxt nor Great Expectations.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import dagster as dg

from ohlcv_assets.instruments import Market
from ohlcv_assets.orchestration.alerts import build_alert_sensors
from ohlcv_assets.orchestration.assets import build_capture_assets
from ohlcv_assets.orchestration.backfill_db import build_backfill_job, build_backfilled_bars
from ohlcv_assets.orchestration.history import build_history, build_history_job
from ohlcv_assets.orchestration.jobs import build_jobs, repair_jobs
from ohlcv_assets.orchestration.ledger import build_ledger
from ohlcv_assets.orchestration.preview import silence_preview_warnings
from ohlcv_assets.orchestration.qa import build_qa_assets
from ohlcv_assets.orchestration.repair_sensor import build_repair_sensor
from ohlcv_assets.orchestration.repairs import build_repair_assets
from ohlcv_assets.orchestration.resources import default_resources
from ohlcv_assets.orchestration.schedules import build_daily_schedule, build_weekly_schedule
from ohlcv_assets.orchestration.sensors import build_sensors
from ohlcv_assets.settings import Settings, read_settings


def build_defs(*, settings: Settings | None = None, resources: Mapping[str, Any] | None = None) -> dg.Definitions:
    """Fresh definitions for one region.

    Args:
        settings: the deployment's settings; read from the environment when not given.
        resources: replacements for `exchange`, `database`, `lake` or `universe`, by name.
    """
    silence_preview_warnings()
    settings = settings or read_settings()
    jobs = {market: build_jobs(settings, market) for market in Market}
    history = {market: build_history_job(settings, market) for market in Market}
    return dg.Definitions(
        assets=[
            asset
            for market in Market
            for asset in (
                *build_capture_assets(settings, market),
                *build_repair_assets(settings, market),
                *build_qa_assets(settings, market),
                build_ledger(settings, market),
                build_backfilled_bars(settings, market),
                build_history(settings, market),
            )
        ],
        jobs=[
            job
            for market in Market
            for job in (*jobs[market].all(), build_backfill_job(settings, market), history[market])
        ],
        schedules=[
            schedule
            for market in Market
            for schedule in (
                build_daily_schedule(settings, market, jobs[market].day),
                build_weekly_schedule(settings, market, history[market]),
            )
        ],
        sensors=[
            *build_sensors(
                settings,
                {market: jobs[market].stream_hour for market in Market},
                {market: jobs[market].recent for market in Market},
            ),
            build_repair_sensor(settings, repair_jobs(jobs)),
            *build_alert_sensors(settings),
        ],
        resources={**default_resources(), **(resources or {})},
        # A backfill's runs are of no job of ours: without this, each day or month would load the code location twice.
        executor=dg.in_process_executor,
    )


defs = build_defs()
