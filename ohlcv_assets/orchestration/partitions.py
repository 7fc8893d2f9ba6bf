"""The two time grids of the assets: UTC hours for what is streamed, UTC days for what is fetched and compared.

Lives here: the partitions definitions, and the way from a run's partitions to an `Interval`. Does not: ten-minute
partitions. Dagster rebuilds the status of partitioned checks at every page view, which takes minutes at ten-minute
grain; the ten-minute QA therefore compares the hour so far.
"""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

import dagster as dg

from ohlcv_assets.clock import utc_now
from ohlcv_assets.instruments import FIRST_DAY, Market
from ohlcv_assets.settings import Settings
from ohlcv_assets.timestamps import HOUR_MS, Interval, from_ms, to_ms

#: The hours of one check that its page shows: 720. At 2,160 a page took seconds, at every look, and older hours stand in the day's QA.
_RECENT_DAYS = 30
#: How a backfill of days is cut into runs, decided by measurement (docs/decisions/0009-a-backfill-is-runs-of-a-month.md).
DAYS_OF_A_RUN = dg.BackfillPolicy.multi_run(31)

_HOUR_FORMAT = "%Y-%m-%d-%H:%M"
_DAY_FORMAT = "%Y-%m-%d"


def hourly_partitions(settings: Settings) -> dg.HourlyPartitionsDefinition:
    """UTC hours from OHLCV_STREAMED_SINCE on.

    The two hours that are not over yet have keys as well: a streaming run starts before its hour does.
    """
    since, until = settings.streamed_since, settings.partitions_until
    return dg.HourlyPartitionsDefinition(
        start_date=f"{since}-00:00",
        end_date=f"{until}-00:00" if until else None,
        timezone="UTC",
        fmt=_HOUR_FORMAT,
        end_offset=0 if until else 2,
    )


def recent_partitions(settings: Settings) -> dg.HourlyPartitionsDefinition:
    """The hours of the ten-minute QA: the last thirty days of those that are streamed.

    Dagster rebuilds the status of a partitioned check from all its partitions at every page view, and each QA asset has ten
    of them: 720 hours are quick. What is older is the daily QA's.
    """
    since, until = settings.streamed_since, settings.partitions_until
    if until is None:
        since = max(since, day_key((utc_now() - timedelta(days=_RECENT_DAYS)).date()))
    return hourly_partitions(settings.model_copy(update={"streamed_since": since}))


def daily_partitions(settings: Settings, market: Market) -> dg.DailyPartitionsDefinition:
    """Finished UTC days from the market's first, or OHLCV_DAILY_SINCE, on."""
    since, until = settings.daily_since or day_key(FIRST_DAY[market]), settings.partitions_until
    return dg.DailyPartitionsDefinition(start_date=since, end_date=until, timezone="UTC", fmt=_DAY_FORMAT)


def hour_key(hour_ms: int) -> str:
    """The partition key of the hour that starts at `hour_ms`."""
    return from_ms(hour_ms).strftime(_HOUR_FORMAT)


def has_hour(hours: dg.HourlyPartitionsDefinition, hour_ms: int) -> bool:
    """Whether that hour is one of the partitions by their limits; the replayed past has keys, and so has the next hour."""
    last = hours.end
    return hours.start.timestamp() * 1000 <= hour_ms and (last is None or hour_ms < last.timestamp() * 1000)


def day_key(day: date) -> str:
    """The partition key of a UTC day."""
    return day.strftime(_DAY_FORMAT)


def hour_of(key: str) -> Interval:
    """The hour that a partition key names."""
    return Interval.of_hour(to_ms(datetime.strptime(key, _HOUR_FORMAT).replace(tzinfo=UTC)))


def day_of(key: str) -> date:
    """The UTC day that a partition key names."""
    return date.fromisoformat(key)


def selected_keys(context: dg.AssetExecutionContext) -> list[str]:
    """The partition keys of this run, in order of time.

    Raises:
        dg.Failure: the run was started without a partition, as the UI's "Execute all" for checks does.
    """
    if not (context.has_partition_key or context.has_partition_key_range):
        raise dg.Failure("this asset is partitioned: materialize it with a partition selected", allow_retries=False)
    return list(context.partition_keys)


def hours_of(keys: list[str]) -> Interval:
    """The interval that consecutive hours cover together."""
    return Interval(hour_of(keys[0]).start_ms, hour_of(keys[-1]).start_ms + HOUR_MS)
