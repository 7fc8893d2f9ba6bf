"""From the exchange into a store: an hour of streaming into PostgreSQL, a day by REST into the lake.

Lives here: how a capture (exchange/) and a store (storage/) are put together; Dagster's runs and the command line
call the same functions. Does not: what is right or wrong about the result (quality/).
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from typing import TYPE_CHECKING

import polars as pl

from ohlcv_assets.bars import Channel
from ohlcv_assets.errors import UsageError
from ohlcv_assets.exchange.fetch import Fetched, Progress, fetch_bars
from ohlcv_assets.exchange.stream import stream_bars
from ohlcv_assets.exchange.stream_report import StreamReport
from ohlcv_assets.storage.lake import Lake, Signature, Written
from ohlcv_assets.timestamps import Interval, iso

if TYPE_CHECKING:
    from ohlcv_assets.exchange.binance import Exchange
    from ohlcv_assets.instruments import Symbol
    from ohlcv_assets.storage.database import Database


@dataclass(frozen=True)
class DayDownload:
    """A day that was fetched, and the object of the lake that holds it."""

    fetched: Fetched
    written: Written


async def stream_into_database(
    exchange: Exchange,
    database: Database,
    symbols: Sequence[Symbol],
    interval: Interval,
    *,
    delay_s: float,
    overlap_s: float,
    run_id: str,
    on_progress: Progress | None = None,
) -> StreamReport:
    """Capture every bar of the interval into the database: live by WebSocket, the rest by REST.

    What the database holds already is not fetched again, so that a run which replaces another does only what is
    left, and an interval that is over is simply completed.

    Args:
        exchange: an open market.
        database: where the bars go; the first capture of a bar wins, a differing later one becomes a revision.
        symbols: the symbols of the market.
        interval: the minutes that must be complete in the end.
        delay_s: d; after so many exchange seconds a bar that has not come is fetched by REST.
        overlap_s: how long the stream goes on after the interval, in exchange seconds.
        run_id: stored with every bar, so that it can be traced to the run that brought it.
        on_progress: told (bars settled, bars expected) after each batch.
    """

    async def sink(bars: pl.DataFrame, channel: Channel) -> None:
        await asyncio.to_thread(database.record, bars, channel=channel, run_id=run_id)

    held = await asyncio.to_thread(database.keys, exchange.market, interval)
    return await stream_bars(
        exchange,
        symbols,
        interval,
        sink,
        delay_s=delay_s,
        overlap_s=overlap_s,
        already=set(held.select("symbol", "timestamp").iter_rows()),
        on_progress=on_progress,
    )


async def download_day(
    exchange: Exchange,
    lake: Lake,
    signature: Signature,
    symbols: Sequence[Symbol],
    day: date,
    *,
    replace: bool = False,
    universe_hash: str | None = None,
) -> DayDownload:
    """Fetch a whole UTC day by REST and put it into the lake as one file, with the universe's hash noted in it.

    Raises:
        UsageError: the day is not over on the exchange.
        LakeConflict: the lake holds this day with other content, and `replace` is not set.
    """
    interval = Interval.of_day(day)
    now_ms = exchange.clock.now_ms()
    if interval.end_ms > now_ms:
        raise UsageError(f"{day} is not over: the exchange's clock says {iso(now_ms)}", hint="choose an earlier day")
    fetched = await fetch_bars(exchange, symbols, interval)
    written = await asyncio.to_thread(
        lake.write_day, signature, day, fetched.bars, replace=replace, universe_hash=universe_hash
    )
    return DayDownload(fetched, written)
