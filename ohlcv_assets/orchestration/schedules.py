"""The schedules: every early morning (UTC) yesterday is downloaded and compared; every Sunday old days are verified.

Lives here: the time of day. Does not: the streaming runs, which a sensor keeps (sensors.py).
"""

from __future__ import annotations

import dagster as dg

from ohlcv_assets.instruments import Market
from ohlcv_assets.orchestration.preview import (
    UnresolvedAssetJobDefinition,
    UnresolvedPartitionedAssetScheduleDefinition,
)
from ohlcv_assets.settings import Settings

# Late enough that corrections of the day's last minutes are in, early enough for Tokyo's morning; each market has
# its own ten minutes so that two downloads do not start at once.
_START = {Market.SPOT: (1, 10), Market.FUTURES: (1, 20)}
# When the days' downloads are over, and few people trade: a verification asks for a month of days.
_VERIFIED = {Market.SPOT: (3, 10), Market.FUTURES: (4, 10)}


def build_daily_schedule(
    settings: Settings, market: Market, job: UnresolvedAssetJobDefinition
) -> dg.ScheduleDefinition | UnresolvedPartitionedAssetScheduleDefinition:
    """The schedule `<market>_every_day` of the market's day job, for the day that ended last."""
    hour, minute = _START[market]
    return dg.build_schedule_from_partitioned_job(
        job,
        name=f"{market}_every_day",
        description=f"Downloads and compares yesterday's {market} bars at {hour:02}:{minute:02} UTC.",
        hour_of_day=hour,
        minute_of_hour=minute,
        default_status=dg.DefaultScheduleStatus.RUNNING if settings.autostart else dg.DefaultScheduleStatus.STOPPED,
    )


def build_weekly_schedule(
    settings: Settings, market: Market, job: UnresolvedAssetJobDefinition
) -> dg.ScheduleDefinition:
    """The schedule `<market>_every_week` of the job that verifies the last thirty days."""
    hour, minute = _VERIFIED[market]
    return dg.ScheduleDefinition(
        name=f"{market}_every_week",
        job=job,
        cron_schedule=f"{minute} {hour} * * 0",
        execution_timezone="UTC",
        description=f"Fetches the last thirty days of {market} again on Sundays at {hour:02}:{minute:02} UTC, and "
        "compares them with the lake.",
        default_status=dg.DefaultScheduleStatus.RUNNING if settings.autostart else dg.DefaultScheduleStatus.STOPPED,
    )
