"""The sensors: one keeps every market streaming, one keeps the hour so far compared.

Lives here: what a tick asks (the exchange's clock, Dagster's runs, the newest bar) and what it requests. Does not:
the decision which runs are missing (supervision.py), or the work, which is in runs: a tick is over in a second.
"""

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import closing
from functools import partial

import dagster as dg
import polars as pl

from ohlcv_assets.clock import Clock, utc_now
from ohlcv_assets.errors import OhlcvError
from ohlcv_assets.instruments import Market, Symbol, shard
from ohlcv_assets.orchestration.assets import SHARD_TAG
from ohlcv_assets.orchestration.partitions import has_hour, hour_key, hour_of, hourly_partitions, recent_partitions
from ohlcv_assets.orchestration.preview import UnresolvedAssetJobDefinition
from ohlcv_assets.orchestration.resources import DatabaseResource, ExchangeResource, UniverseResource
from ohlcv_assets.orchestration.supervision import (
    STALLED_AFTER_S,
    Slot,
    Start,
    StartedRun,
    hours_to_stream,
    missed_hours,
    runs_to_start,
)
from ohlcv_assets.quality.recent import due_windows
from ohlcv_assets.settings import Settings
from ohlcv_assets.storage.database import Database
from ohlcv_assets.timestamps import HOUR_MS, MINUTE_MS, Interval, floor_to

#: What a run may take beyond its hour and overlap, in seconds of our own time: starting, and the last REST repairs.
_MARGIN_S = 900
_RUNS_LOOKED_AT = 500
#: The hours before this one that are compared when that was not done in time.
_COMPARED_HOURS = 3
#: A minute that is not streamed now has to be fetched: whatever else waits for a place waits behind these runs.
_FIRST_IN_THE_QUEUE = {"dagster/priority": "10"}
_FINISHED = (dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED)
_NOTHING = "every market has its runs"

Jobs = dict[Market, UnresolvedAssetJobDefinition]


def build_sensors(settings: Settings, streaming: Jobs, recent: Jobs) -> list[dg.SensorDefinition]:
    """The sensors `keep_streaming` and `keep_comparing`."""
    return [build_stream_sensor(settings, streaming), build_recent_sensor(settings, streaming, recent)]


def build_stream_sensor(settings: Settings, jobs: Jobs) -> dg.SensorDefinition:
    """Every hour of every market has a streaming run, started two minutes early, and another when that one dies."""

    @dg.sensor(
        name="keep_streaming",
        jobs=list(jobs.values()),
        minimum_interval_seconds=settings.sensor_interval_s,
        default_status=_status(settings),
        description="Starts each hour's streaming run of each market two minutes before its hour, once; replaces a run "
        "that died or whose bars stopped arriving; starts hours that were missed.",
    )
    def keep_streaming(
        context: dg.SensorEvaluationContext,
        exchange: ExchangeResource,
        database: DatabaseResource,
        universe: UniverseResource,
    ) -> dg.SensorResult:
        watch = partial(_watch, context, settings, database, universe)
        return _asked(context, exchange, lambda market, clock: watch(market, jobs[market].name, clock))

    return keep_streaming


def build_recent_sensor(settings: Settings, streaming: Jobs, jobs: Jobs) -> dg.SensorDefinition:
    """Every ten minutes the window that ended five minutes ago is fetched, and the hour so far compared."""

    @dg.sensor(
        name="keep_comparing",
        jobs=list(jobs.values()),
        minimum_interval_seconds=settings.sensor_interval_s,
        default_status=_status(settings),
        description="Every ten minutes: fetches the window that ended five minutes ago, and compares the hour so far.",
    )
    def keep_comparing(context: dg.SensorEvaluationContext, exchange: ExchangeResource) -> dg.SensorResult:
        def due(market: Market, clock: Clock) -> Iterator[dg.RunRequest]:
            # One at a time: on a machine that cannot keep up they would pile up. The next one takes what is due then.
            if _under_way(context.instance, jobs[market].name):
                return iter(())
            # Comparing an hour that nobody streamed would only say so.
            streamed = {slot.hour_ms for slot in _runs_by_slot(context.instance, streaming[market].name)}
            return _due(settings, market, jobs[market].name, clock, streamed)

        return _asked(context, exchange, due)

    return keep_comparing


def _status(settings: Settings) -> dg.DefaultSensorStatus:
    return dg.DefaultSensorStatus.RUNNING if settings.autostart else dg.DefaultSensorStatus.STOPPED


def _asked(
    context: dg.SensorEvaluationContext,
    exchange: ExchangeResource,
    requests_of: Callable[[Market, Clock], Iterable[dg.RunRequest]],
) -> dg.SensorResult:
    """The requests of all markets; a market that cannot be asked does not stop the others, and the next tick asks again."""
    requests: list[dg.RunRequest] = []
    silent: list[str] = []
    for market in Market:
        try:
            requests += requests_of(market, exchange.clock(market))
        except OhlcvError as error:
            silent.append(f"{market}: {error}")
            context.log.warning(silent[-1])
    return dg.SensorResult(run_requests=requests, skip_reason=None if requests else "; ".join(silent) or _NOTHING)


def _watch(
    context: dg.SensorEvaluationContext,
    settings: Settings,
    database: DatabaseResource,
    universe: UniverseResource,
    market: Market,
    job_name: str,
    clock: Clock,
) -> Iterator[dg.RunRequest]:
    now_ms, hours = clock.now_ms(), hourly_partitions(settings)
    runs = _runs_by_slot(context.instance, job_name)
    wanted = [
        *missed_hours(now_ms, [slot.hour_ms for slot in runs]),
        *hours_to_stream(now_ms, settings.stream_lead_s),
    ]
    parts = range(1, settings.stream_shards + 1)
    slots = [Slot(hour, part, len(parts)) for hour in wanted if has_hour(hours, hour) for part in parts]
    stalled = _stalled(database, universe, market, clock, [slot for slot in slots if _can_stall(slot, runs, now_ms)])
    for start in runs_to_start(slots, runs, stalled):
        if start.instead_of:
            _end(context, start.instead_of)
        yield _request(settings, market, job_name, start, clock)


def _runs_by_slot(instance: dg.DagsterInstance, job_name: str) -> dict[Slot, list[StartedRun]]:
    """The newest runs of a streaming job, by the slot that their partition and shard name."""
    records = instance.get_run_records(dg.RunsFilter(job_name=job_name), limit=_RUNS_LOOKED_AT)
    found: dict[Slot, list[StartedRun]] = defaultdict(list)
    now_s = utc_now().timestamp()
    for record in records:
        key = record.dagster_run.tags.get("dagster/partition")
        if key is None:
            continue
        part, _, parts = record.dagster_run.tags.get(SHARD_TAG, "1/1").partition("/")
        run = StartedRun(
            run_id=record.dagster_run.run_id,
            alive=not record.dagster_run.is_finished,
            succeeded=record.dagster_run.is_success,
            started_s_ago=now_s - record.create_timestamp.timestamp(),
            ended_s_ago=None if record.end_time is None else now_s - record.end_time,
        )
        found[Slot(hour_of(key).start_ms, int(part), int(parts))].append(run)
    return found


def _can_stall(slot: Slot, runs: dict[Slot, list[StartedRun]], now_ms: int) -> bool:
    """Whether bars must be arriving in this slot now: its hour is running, and so is a run of it."""
    begun = slot.hour_ms + MINUTE_MS + STALLED_AFTER_S * 1000 < now_ms < slot.hour_ms + HOUR_MS
    return begun and any(run.alive and run.started_s_ago > STALLED_AFTER_S for run in runs.get(slot, ()))


def _stalled(
    database: DatabaseResource, universe: UniverseResource, market: Market, clock: Clock, slots: Sequence[Slot]
) -> dict[Slot, bool]:
    """Of slots whose bars must be arriving, those whose newest bar is too old."""
    if not slots:
        return {}
    symbols = universe.load().at(round(clock.now_ms()))[market]
    with closing(database.open()) as store:
        return {slot: _is_stalled(_newest(store, market, _part(symbols, slot), slot), clock, slot) for slot in slots}


def _newest(store: Database, market: Market, symbols: Sequence[Symbol], slot: Slot) -> int | None:
    """The start of the newest bar of these symbols in the slot's hour, UNIX milliseconds."""
    keys = store.keys(market, Interval.of_hour(slot.hour_ms))
    newest = keys.filter(pl.col("symbol").is_in(list(symbols)))["timestamp"].max()
    return newest if isinstance(newest, int) else None


def _is_stalled(newest_ms: int | None, clock: Clock, slot: Slot) -> bool:
    last_end_ms = slot.hour_ms if newest_ms is None else newest_ms + MINUTE_MS
    # The bar after the newest one ends a minute later; only then does waiting for it begin. Our own seconds count,
    # for it is our run that has to work, however fast a replayed exchange's clock goes.
    return clock.wall_s((clock.now_ms() - last_end_ms - MINUTE_MS) / 1000) > STALLED_AFTER_S


def _part(symbols: Sequence[Symbol], slot: Slot) -> Sequence[Symbol]:
    return shard(symbols, slot.shard - 1, slot.shards)


def _end(context: dg.SensorEvaluationContext, run_id: str) -> None:
    """End a run whose bars stopped arriving; that it cannot be ended is no reason not to replace it."""
    try:
        context.instance.run_launcher.terminate(run_id)
    except Exception as error:  # noqa: BLE001  the launcher raises whatever its platform does
        context.log.warning(f"run {run_id} could not be ended: {error!r}")


def _request(settings: Settings, market: Market, job_name: str, start: Start, clock: Clock) -> dg.RunRequest:
    slot, key = start.slot, hour_key(start.slot.hour_ms)
    remaining_s = max(0.0, (slot.hour_ms + HOUR_MS - clock.now_ms()) / 1000) + settings.stream_overlap_s
    return dg.RunRequest(
        run_key=f"{settings.region}/{market}/{key}/{slot.part}/{start.attempt}",
        job_name=job_name,
        partition_key=key,
        tags={
            **_FIRST_IN_THE_QUEUE,
            "ohlcv/market": market.value,
            SHARD_TAG: slot.part,
            # Without a limit a run of a host that crashed would stay "started" for ever and hold its place in the queue.
            "dagster/max_runtime": str(int(clock.wall_s(remaining_s)) + _MARGIN_S),
        },
    )


def _under_way(instance: dg.DagsterInstance, job_name: str) -> bool:
    """Whether a run of the job waits or runs."""
    unfinished = [status for status in dg.DagsterRunStatus if status not in _FINISHED]
    return bool(instance.get_run_records(dg.RunsFilter(job_name=job_name, statuses=unfinished), limit=1))


def _due(
    settings: Settings, market: Market, job_name: str, clock: Clock, streamed: Collection[int]
) -> Iterator[dg.RunRequest]:
    """A run for this hour and those before, where they are streamed, whenever one more of their windows is due.

    An hour's last window is due five minutes after it. It is asked for three hours long, in case a run was under way.
    """
    now_ms, hours = clock.now_ms(), recent_partitions(settings)
    this_hour = floor_to(now_ms, HOUR_MS)
    for hour_ms in range(this_hour - _COMPARED_HOURS * HOUR_MS, this_hour + HOUR_MS, HOUR_MS):
        windows = due_windows(Interval.of_hour(hour_ms), now_ms)
        if windows and hour_ms in streamed and has_hour(hours, hour_ms):
            key = hour_key(hour_ms)
            yield dg.RunRequest(
                run_key=f"{settings.region}/{market}/{key}/windows={len(windows)}",
                job_name=job_name,
                partition_key=key,
                tags={"ohlcv/market": market.value, "dagster/max_runtime": str(_MARGIN_S)},
            )
