"""The sensor that keeps every market streaming: one run an hour and market, started two minutes early, once.

Lives here: which hours must have a streaming run now, and the requests for those that have none yet. Does not:
streaming itself, which is a run; a sensor's tick is over in a second.
"""

from collections.abc import Iterator

import dagster as dg

from ohlcv_assets.clock import Clock
from ohlcv_assets.errors import OhlcvError
from ohlcv_assets.instruments import Market
from ohlcv_assets.orchestration.partitions import has_hour, hour_key, hourly_partitions
from ohlcv_assets.orchestration.preview import UnresolvedAssetJobDefinition
from ohlcv_assets.orchestration.resources import ExchangeResource
from ohlcv_assets.settings import Settings
from ohlcv_assets.timestamps import HOUR_MS, floor_to

#: What a run may take beyond its hour and overlap, in seconds of our own time: starting, and the last REST repairs.
_MARGIN_S = 600
_BEFORE = "the exchange's clock is outside the partitions: see OHLCV_STREAMED_SINCE and OHLCV_PARTITIONS_UNTIL"


def hours_to_stream(now_ms: int, lead_s: float) -> list[int]:
    """The hours that must have a streaming run: this one, and the next once it is `lead_s` seconds away.

    Args:
        now_ms: the exchange's time, UNIX milliseconds.
        lead_s: how long before its hour a run starts, in seconds of the exchange.

    Returns:
        Starts of hours, UNIX milliseconds.
    """
    this_hour = floor_to(now_ms, HOUR_MS)
    upcoming = floor_to(now_ms + int(lead_s * 1000), HOUR_MS)
    return list(range(this_hour, upcoming + HOUR_MS, HOUR_MS))


def build_stream_sensor(settings: Settings, jobs: dict[Market, UnresolvedAssetJobDefinition]) -> dg.SensorDefinition:
    """The sensor `keep_streaming` over the streaming job of each market.

    A run's key is its region, market and hour, so that an hour is started once, however often the sensor ticks,
    and a daemon that was down starts the current hour when it is back: the run fetches what it missed.
    """

    @dg.sensor(
        name="keep_streaming",
        jobs=list(jobs.values()),
        minimum_interval_seconds=settings.sensor_interval_s,
        default_status=dg.DefaultSensorStatus.RUNNING if settings.autostart else dg.DefaultSensorStatus.STOPPED,
        description="Starts each hour's streaming run of each market two minutes before its hour, once.",
    )
    def keep_streaming(context: dg.SensorEvaluationContext, exchange: ExchangeResource) -> dg.SensorResult:
        requests: list[dg.RunRequest] = []
        silent: list[str] = []
        for market, job in jobs.items():
            try:
                requests += _requests(settings, market, job.name, exchange.clock(market))
            except OhlcvError as error:
                # The other market may answer, and the next tick asks again.
                silent.append(f"{market}: {error}")
                context.log.warning(silent[-1])
        return dg.SensorResult(run_requests=requests, skip_reason=None if requests else "; ".join(silent) or _BEFORE)

    return keep_streaming


def _requests(settings: Settings, market: Market, job_name: str, clock: Clock) -> Iterator[dg.RunRequest]:
    now_ms, hours = clock.now_ms(), hourly_partitions(settings)
    for hour_ms in hours_to_stream(now_ms, settings.stream_lead_s):
        if not has_hour(hours, hour_ms):
            continue
        remaining_s = (hour_ms + HOUR_MS - now_ms) / 1000 + settings.stream_overlap_s
        # Without a limit a run of a host that crashed would stay "started" for ever and hold its place in the queue.
        max_runtime_s = int(clock.wall_s(remaining_s)) + _MARGIN_S
        key = hour_key(hour_ms)
        yield dg.RunRequest(
            run_key=f"{settings.region}/{market}/{key}",
            job_name=job_name,
            partition_key=key,
            tags={"ohlcv/market": market.value, "dagster/max_runtime": str(max_runtime_s)},
        )
