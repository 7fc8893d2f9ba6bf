"""The assets that capture bars, made by one factory a market: streamed_bars, recent_bars, daily_bars.

Lives here: their keys, partitions and descriptions, and the few lines that hand a run's partition to the code
that does the work (capture.py). Does not: that work, or the assets that compare (qa.py).

Annotations are not postponed in this module: Dagster reads them when an asset is defined.
"""

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, closing
from datetime import timedelta
from functools import partial
from typing import Any

import dagster as dg
import polars as pl

from ohlcv_assets.capture import DayDownload, download_day, stream_into_database
from ohlcv_assets.errors import DatabaseUnavailable, UsageError
from ohlcv_assets.exchange.binance import Exchange
from ohlcv_assets.exchange.fetch import fetch_bars
from ohlcv_assets.exchange.stream import OnMinute
from ohlcv_assets.exchange.stream_report import StreamReport
from ohlcv_assets.exchange.stream_status import MinuteStatus
from ohlcv_assets.instruments import Market, Symbol, Universe, shard
from ohlcv_assets.logs import get_logger
from ohlcv_assets.orchestration import metadata
from ohlcv_assets.orchestration.common import asset_key, failures
from ohlcv_assets.orchestration.partitions import (
    DAYS_OF_A_RUN,
    daily_partitions,
    day_of,
    hour_of,
    hourly_partitions,
    hours_of,
    recent_partitions,
    selected_keys,
)
from ohlcv_assets.orchestration.ranges import Outcomes
from ohlcv_assets.orchestration.resources import DatabaseResource, ExchangeResource, LakeResource, UniverseResource
from ohlcv_assets.quality.completeness import missing_ranges
from ohlcv_assets.quality.recent import RecentBars, due_windows
from ohlcv_assets.settings import Settings
from ohlcv_assets.storage.database import Database
from ohlcv_assets.storage.lake import Lake, Signature
from ohlcv_assets.storage.spool import Spool
from ohlcv_assets.timestamps import Interval, iso

#: The tag that says which part of the universe a streaming run has: `1/4` is the first of four.
SHARD_TAG = "ohlcv/shard"
#: How often a running stream reports itself to the UI, in seconds of our own time.
_OBSERVE_EVERY_S = 15.0


class DailyBarsConfig(dg.Config):
    """What a person may decide in the launchpad about a day's download."""

    replace: bool = False
    """Whether a day that the lake holds with other content is replaced; the old file is kept under its hash."""


def build_capture_assets(settings: Settings, market: Market) -> list[dg.AssetsDefinition]:
    """The three assets of a market that capture bars."""
    return [
        build_streamed_bars(settings, market),
        build_recent_bars(settings, market),
        build_daily_bars(settings, market),
    ]


def build_streamed_bars(settings: Settings, market: Market) -> dg.AssetsDefinition:
    """Bars captured as they close, an hour a partition, in PostgreSQL."""

    @dg.asset(
        key=asset_key(settings, market, "streamed_bars"),
        group_name=market.value,
        kinds={"postgres"},
        tags={"market": market.value},
        partitions_def=hourly_partitions(settings),
        backfill_policy=dg.BackfillPolicy.multi_run(24),
        # An hour's run ends two minutes after it: a second hour without one means that nobody streams.
        freshness_policy=dg.FreshnessPolicy.time_window(fail_window=timedelta(minutes=125)),
        description=f"One-minute bars of {market}, written as they close; an hour that is over is completed by REST.",
    )
    def streamed_bars(
        context: dg.AssetExecutionContext,
        exchange: ExchangeResource,
        database: DatabaseResource,
        universe: UniverseResource,
    ) -> None:
        keys = selected_keys(context)
        started_s = time.monotonic()
        with failures(), closing(database.open()) as store:
            symbols = _symbols_of_run(context, universe.load().listed_in(market, hours_of(keys)))
            stream = partial(_stream, settings, exchange.open(market), store, symbols, hours_of(keys))
            part = context.run.tags.get(SHARD_TAG, "1/1")
            report = asyncio.run(stream(context.run.run_id, _observer(context, keys), part))
            _insist_on_stored(report)
            taken = {**metadata.of_stream(report), "taken_s": time.monotonic() - started_s}
            for key in keys:
                held = store.read(market, hour_of(key), symbols=symbols)
                context.add_asset_metadata({**_of_hour(held, len(symbols)), **taken}, partition_key=key)

    return streamed_bars


def build_recent_bars(settings: Settings, market: Market) -> dg.AssetsDefinition:
    """The hour so far fetched by REST, in ten-minute windows, apart from the daily files."""

    @dg.asset(
        key=asset_key(settings, market, "recent_bars"),
        group_name=market.value,
        kinds={"parquet"},
        tags={"market": market.value},
        partitions_def=recent_partitions(settings),
        description=f"One-minute bars of {market} by REST, every ten minutes the window that ended five minutes ago.",
    )
    def recent_bars(
        context: dg.AssetExecutionContext,
        exchange: ExchangeResource,
        lake: LakeResource,
        universe: UniverseResource,
    ) -> None:
        (key,) = selected_keys(context)
        started_s = time.monotonic()
        with failures():
            released = universe.load()
            store = RecentBars(lake.open(), market, released)
            hour = hour_of(key)
            symbols = released.listed_in(market, hour)
            numbers = asyncio.run(_fetch_windows(exchange.open(market), store, symbols, hour))
            context.add_asset_metadata({**numbers, "taken_s": time.monotonic() - started_s}, partition_key=key)

    return recent_bars


def build_daily_bars(
    settings: Settings, market: Market, *, name: str = "daily_bars", policy: dg.BackfillPolicy = DAYS_OF_A_RUN
) -> dg.AssetsDefinition:
    """Bars fetched by REST, a UTC day a partition, in the lake; a measurement chooses another name and policy."""

    @dg.asset(
        key=asset_key(settings, market, name),
        group_name=market.value,
        kinds={"parquet"},
        tags={"market": market.value},
        partitions_def=daily_partitions(settings, market),
        backfill_policy=policy,
        freshness_policy=dg.FreshnessPolicy.time_window(fail_window=timedelta(hours=26)),
        description=f"One-minute bars of {market}, one immutable Parquet file a UTC day, downloaded by REST.",
    )
    def daily_bars(
        context: dg.AssetExecutionContext,
        config: DailyBarsConfig,
        exchange: ExchangeResource,
        lake: LakeResource,
        universe: UniverseResource,
    ) -> Iterator[dg.AssetMaterialization | dg.MaterializeResult[Any]]:
        keys, outcomes = selected_keys(context), Outcomes(context)
        with failures():
            days = _download(exchange.open(market), lake.open(), market, universe.load(), keys, config, outcomes)
            for key in _one_by_one(days):
                yield from outcomes.at_once(key)
        yield from outcomes.materializations()
        outcomes.insist()

    return daily_bars


def _symbols_of_run(context: dg.AssetExecutionContext, symbols: Sequence[Symbol]) -> Sequence[Symbol]:
    """The run's part of the universe: all of it, unless its tag names a shard."""
    index, _, count = context.run.tags.get(SHARD_TAG, "1/1").partition("/")
    return shard(symbols, int(index) - 1, int(count))


async def _stream(
    settings: Settings,
    opening: AbstractAsyncContextManager[Exchange],
    store: Database,
    symbols: Sequence[Symbol],
    interval: Interval,
    run_id: str,
    on_minute: OnMinute,
    part: str,
) -> StreamReport:
    async with opening as exchange:
        return await stream_into_database(
            exchange,
            store,
            symbols,
            interval,
            delay_s=settings.download_delay_s,
            overlap_s=settings.stream_overlap_s,
            run_id=run_id,
            # While PostgreSQL is away bars wait on disk: the capture goes on.
            spool=Spool.of(settings, exchange.market),
            metrics_port=settings.metrics_port,
            on_minute=on_minute,
            part=part,
        )


def _insist_on_stored(report: StreamReport) -> None:
    """A run whose bars are safe on disk only has not done its work: its successor takes them in."""
    if report.bars_spooled:
        raise DatabaseUnavailable(
            f"{report.bars_spooled} bars are safe in the spool, but PostgreSQL did not come back",
            hint="nothing is lost: when PostgreSQL answers, the next run of this market takes them in",
        )


async def _fetch_windows(
    opening: AbstractAsyncContextManager[Exchange], store: RecentBars, symbols: Sequence[Symbol], hour: Interval
) -> dict[str, Any]:
    """Fetch what is due of an hour and not kept yet; the numbers of the hour so far."""
    bytes_written = requests = 0
    async with opening as exchange:
        windows = due_windows(hour, exchange.clock.now_ms())
        if not windows:
            raise UsageError(
                f"no window of {hour} is due: it is {iso(exchange.clock.now_ms())} on the exchange",
                hint="wait until fifteen minutes into the hour",
            )
        for window in store.missing(windows):
            fetched = await fetch_bars(exchange, symbols, window)
            bytes_written += store.write(window, fetched.bars)
            requests += fetched.requests
    bars, _ = store.read(windows)
    minutes = sum(len(window.minutes) for window in windows)
    numbers = metadata.of_bars(bars, expected=len(symbols) * minutes)
    return {**numbers, "windows": len(windows), "bytes": bytes_written, "requests": requests}


async def _download(
    opening: AbstractAsyncContextManager[Exchange],
    lake: Lake,
    market: Market,
    universe: Universe,
    keys: list[str],
    config: DailyBarsConfig,
    outcomes: Outcomes,
) -> AsyncIterator[str]:
    """Download the days in their order; each key as soon as it was tried."""
    store = partial(download_day, replace=config.replace, universe_hash=universe.content_hash)
    async with opening as exchange:
        for key in outcomes.trying(keys):
            started_s = time.monotonic()
            with outcomes.of(key) as facts:
                symbols = universe.listed_in(market, Interval.of_day(day_of(key)))
                download = await store(exchange, lake, Signature.daily(market, universe), symbols, day_of(key))
                facts |= {**_of_download(download, len(symbols)), "taken_s": time.monotonic() - started_s}
            yield key


def _one_by_one(steps: AsyncIterator[str]) -> Iterator[str]:
    """What an asynchronous iterator yields, to code that is not asynchronous: Dagster takes an event from between two steps."""
    with asyncio.Runner() as runner:

        async def following() -> str | None:
            return await anext(steps, None)

        while (step := runner.run(following())) is not None:
            yield step


def _observer(context: dg.AssetExecutionContext, keys: list[str]) -> OnMinute:
    """What shows a running stream in the UI: an observation of its last hour, now and then.

    Dagster's storage may be slow or away, and neither may hold up or end a capture: the observation is stored beside it,
    one at a time, and one that cannot be stored is logged and forgotten.
    """
    last_s = time.monotonic()
    storing: threading.Thread | None = None

    def store(observation: dg.AssetObservation) -> None:
        try:
            context.log_event(observation)
        except Exception as error:  # noqa: BLE001  whatever Dagster's storage raises
            get_logger().warning("an observation could not be stored", error=repr(error)[:200])

    def observe(minute: MinuteStatus) -> None:
        nonlocal last_s, storing
        if time.monotonic() - last_s < _OBSERVE_EVERY_S or (storing and storing.is_alive()):
            return
        last_s = time.monotonic()
        facts = metadata.of_minute(minute)
        observation = dg.AssetObservation(context.asset_key, partition=keys[-1], metadata=facts)
        # A daemon: one that hangs does not keep the run's process from ending.
        storing = threading.Thread(target=store, args=(observation,), name="observation", daemon=True)
        storing.start()

    return observe


def _of_hour(held: pl.DataFrame, symbols: int) -> dict[str, Any]:
    by_channel = dict(held.group_by("channel").len().iter_rows())
    return {
        **metadata.of_bars(held, expected=symbols * 60),
        "bars_by_websocket": by_channel.get("websocket", 0),
        "bars_by_rest": by_channel.get("rest", 0),
        "bytes": held.estimated_size(),
    }


def _of_download(download: DayDownload, symbols: int) -> dict[str, Any]:
    fetched, written = download.fetched, download.written
    facts: dict[str, Any] = {
        **metadata.of_bars(fetched.bars, expected=symbols * 1440),
        "bytes": written.bytes,
        "file": dg.MetadataValue.path(written.location),
        "content_hash": written.content_hash,
        "outcome": written.outcome,
        "requests": fetched.requests,
        "request_weight": fetched.weight,
    }
    if not fetched.missing.is_empty():
        facts["missing_ranges"] = metadata.table(missing_ranges(fetched.missing))
    return facts
