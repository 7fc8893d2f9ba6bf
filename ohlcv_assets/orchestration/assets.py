"""The assets of one market, all made by one factory: streamed_bars, daily_bars, daily_qa.

Lives here: the assets' keys, partitions, dependencies and descriptions, and the few lines that hand a run's
partition to the code that does the work (capture.py, quality/day.py). Does not: that work.

Annotations are not postponed in this module: Dagster reads them when an asset is defined.
"""

import asyncio
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractAsyncContextManager, closing, contextmanager
from functools import partial
from typing import Any

import dagster as dg
import polars as pl

from ohlcv_assets.capture import DayDownload, download_day, stream_into_database
from ohlcv_assets.errors import OhlcvError
from ohlcv_assets.exchange.binance import Exchange
from ohlcv_assets.exchange.fetch import Progress
from ohlcv_assets.exchange.stream_report import StreamReport
from ohlcv_assets.instruments import Market, Symbol, Universe
from ohlcv_assets.orchestration import checks, metadata
from ohlcv_assets.orchestration.partitions import (
    daily_partitions,
    day_of,
    hour_of,
    hourly_partitions,
    hours_of,
    selected_keys,
)
from ohlcv_assets.orchestration.preview import outputs_of_checks
from ohlcv_assets.orchestration.resources import DatabaseResource, ExchangeResource, LakeResource, UniverseResource
from ohlcv_assets.quality.day import compare_day, store_result, summary
from ohlcv_assets.settings import Settings
from ohlcv_assets.storage.database import Database
from ohlcv_assets.storage.lake import Lake, Signature
from ohlcv_assets.timestamps import Interval

#: How often a running stream reports itself to the UI, in seconds of our own time.
_OBSERVE_EVERY_S = 15.0


class DailyBarsConfig(dg.Config):
    """What a person may decide in the launchpad about a day's download."""

    replace: bool = False
    """Whether a day that the lake holds with other content is replaced; the old file is kept under its hash."""


def asset_key(settings: Settings, market: Market, name: str) -> dg.AssetKey:
    """The key of a market's asset: region, market, name."""
    return dg.AssetKey([settings.region, market.value, name])


def build_market_assets(settings: Settings, market: Market) -> list[dg.AssetsDefinition]:
    """The three assets of a market, in the order of the data's way."""
    return [
        build_streamed_bars(settings, market),
        build_daily_bars(settings, market),
        build_daily_qa(settings, market),
    ]


def build_streamed_bars(settings: Settings, market: Market) -> dg.AssetsDefinition:
    """Bars captured as they close, an hour a partition, in PostgreSQL."""

    @dg.asset(
        key=asset_key(settings, market, "streamed_bars"),
        partitions_def=hourly_partitions(settings),
        backfill_policy=dg.BackfillPolicy.multi_run(24),
        group_name=market.value,
        kinds={"postgres"},
        description=f"One-minute bars of {market}, written as they close; an hour that is over is completed by REST.",
        tags={"market": market.value},
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
            symbols = universe.load().symbols[market]
            capture = partial(
                _stream, settings, exchange.open(market), store, symbols, hours_of(keys), context.run.run_id
            )
            report = asyncio.run(capture(_observer(context, keys)))
            taken = {**metadata.of_stream(report), "taken_s": time.monotonic() - started_s}
            for key in keys:
                held = store.read(market, hour_of(key), symbols=symbols)
                context.add_asset_metadata({**_of_hour(held, len(symbols)), **taken}, partition_key=key)

    return streamed_bars


def build_daily_bars(settings: Settings, market: Market) -> dg.AssetsDefinition:
    """Bars fetched by REST, a UTC day a partition, in the lake."""

    @dg.asset(
        key=asset_key(settings, market, "daily_bars"),
        partitions_def=daily_partitions(settings, market),
        backfill_policy=dg.BackfillPolicy.multi_run(31),
        group_name=market.value,
        kinds={"parquet"},
        description=f"One-minute bars of {market}, one immutable Parquet file a UTC day, downloaded by REST.",
        tags={"market": market.value},
    )
    def daily_bars(
        context: dg.AssetExecutionContext,
        config: DailyBarsConfig,
        exchange: ExchangeResource,
        lake: LakeResource,
        universe: UniverseResource,
    ) -> None:
        keys = selected_keys(context)
        with failures():
            released = universe.load()
            download = partial(_download, exchange.open(market), lake.open(), market, released)
            asyncio.run(download(keys, config, context))

    return daily_bars


def build_daily_qa(settings: Settings, market: Market) -> dg.AssetsDefinition:
    """Both captures of a day compared bar for bar; its checks are the verdict."""
    key, partitions = asset_key(settings, market, "daily_qa"), daily_partitions(settings, market)
    specs = checks.specs(key, partitions)

    @dg.asset(
        key=key,
        partitions_def=partitions,
        # A day of QA needs the day's file and its 24 hours of streaming: Dagster maps the hours by their time.
        deps=[asset_key(settings, market, "streamed_bars"), asset_key(settings, market, "daily_bars")],
        backfill_policy=dg.BackfillPolicy.multi_run(31),
        check_specs=specs,
        group_name=market.value,
        kinds={"polars"},
        description=f"Streamed and fetched bars of {market} compared, bar for bar and value for value, a UTC day at a time.",
        tags={"market": market.value},
    )
    def daily_qa(
        context: dg.AssetExecutionContext,
        database: DatabaseResource,
        lake: LakeResource,
        universe: UniverseResource,
    ) -> Iterator[dg.MaterializeResult[Any] | dg.AssetCheckEvaluation | dg.Output[None]]:
        keys, verdicts = selected_keys(context), {}
        with failures(), closing(database.open()) as store:
            kept, released = lake.open(), universe.load()
            for key in keys:
                started_s = time.monotonic()
                qa = verdicts[key] = compare_day(store, kept, released, market, day_of(key))
                differences = dg.MetadataValue.path(store_result(kept, released, qa, context.run.run_id))
                facts = {**summary(qa), "differences": differences, "taken_s": time.monotonic() - started_s}
                context.add_asset_metadata(facts, partition_key=key)
        # The materialization has to be stored before a check can refer to it.
        yield dg.MaterializeResult()
        for day, qa in verdicts.items():
            yield from checks.evaluations(context, specs, day, qa)
        yield from outputs_of_checks(specs)

    return daily_qa


@contextmanager
def failures() -> Iterator[None]:
    """Turn an error of ours into Dagster's failure: what happened, what to do, and whether a retry can help."""
    try:
        yield
    except OhlcvError as error:
        raise dg.Failure(str(error), allow_retries=error.transient) from error


async def _stream(
    settings: Settings,
    opening: AbstractAsyncContextManager[Exchange],
    store: Database,
    symbols: Sequence[Symbol],
    interval: Interval,
    run_id: str,
    on_progress: Progress,
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
            on_progress=on_progress,
        )


async def _download(
    opening: AbstractAsyncContextManager[Exchange],
    lake: Lake,
    market: Market,
    universe: Universe,
    keys: list[str],
    config: DailyBarsConfig,
    context: dg.AssetExecutionContext,
) -> None:
    symbols = universe.symbols[market]
    store = partial(download_day, replace=config.replace, universe_hash=universe.content_hash)
    async with opening as exchange:
        for key in keys:
            started_s = time.monotonic()
            download = await store(exchange, lake, Signature.daily(market, universe), symbols, day_of(key))
            facts = {**_of_download(download, len(symbols)), "taken_s": time.monotonic() - started_s}
            context.add_asset_metadata(facts, partition_key=key)


def _observer(context: dg.AssetExecutionContext, keys: list[str]) -> Progress:
    """What shows a running stream in the UI: an observation of its last hour, now and then."""
    last_s = time.monotonic()

    def observe(bars_present: int, bars_expected: int) -> None:
        nonlocal last_s
        if time.monotonic() - last_s < _OBSERVE_EVERY_S:
            return
        last_s = time.monotonic()
        facts = {"bars_present": bars_present, "bars_expected": bars_expected}
        context.log_event(dg.AssetObservation(context.asset_key, partition=keys[-1], metadata=facts))

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
        facts["missing"] = metadata.table(fetched.missing)
    return facts
