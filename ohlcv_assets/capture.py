r"""From the exchange into a store: an hour of streaming into PostgreSQL, a day by REST into the lake.

Lives here: how a capture (exchange/) and a store (storage/) are put together; Dagster's runs and the command line
call the same functions. Does not: what is right or wrong about the result (quality/).

    exchange --stream_bars--> SafeStore --> database
                                  \--------> spool (disk) --when the database is back--> database
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import date
from typing import TYPE_CHECKING

import polars as pl

from ohlcv_assets.bars import Channel
from ohlcv_assets.errors import DatabaseUnavailable, UsageError
from ohlcv_assets.exchange.absence import DELISTED, NOT_LISTED_YET, NearestBars, absences
from ohlcv_assets.exchange.fetch import Fetched, Progress, fetch_bars
from ohlcv_assets.exchange.metrics import serving_metrics
from ohlcv_assets.exchange.stream import OnMinute, OnStart, stream_bars
from ohlcv_assets.exchange.stream_report import MINUTES_SCHEMA, StreamReport
from ohlcv_assets.exchange.stream_status import MinuteStatus, StreamStatus
from ohlcv_assets.exchange.stream_writer import Sink
from ohlcv_assets.logs import get_logger
from ohlcv_assets.storage.lake import Lake, Signature, Written
from ohlcv_assets.storage.safe_store import SafeStore
from ohlcv_assets.storage.spool import Spool
from ohlcv_assets.storage.stream_log import StreamLog
from ohlcv_assets.timestamps import Interval, iso

if TYPE_CHECKING:
    from ohlcv_assets.exchange.binance import Exchange
    from ohlcv_assets.instruments import Market, Symbol
    from ohlcv_assets.storage.database import Database

#: Before a stream begins, in our own seconds: for what an earlier run has spooled, and for what the database holds.
_EMPTYING_S, _ASKING_S = 10.0, 5.0
_log = get_logger()


@dataclass(frozen=True)
class DayDownload:
    """A day that was fetched, the object of the lake that holds it, and why what is absent is so (`ABSENT_SCHEMA`)."""

    fetched: Fetched
    written: Written
    absent: pl.DataFrame


async def stream_into_database(
    exchange: Exchange,
    database: Database,
    symbols: Sequence[Symbol],
    interval: Interval,
    *,
    delay_s: float,
    overlap_s: float,
    run_id: str,
    spool: Spool | None = None,
    metrics_port: int | None = None,
    on_progress: Progress | None = None,
    on_minute: OnMinute | None = None,
    on_start: OnStart | None = None,
    stopping: asyncio.Event | None = None,
    part: str | None = None,
) -> StreamReport:
    """Capture every bar of the interval into the database: live by WebSocket, the rest by REST.

    What the database holds already is not fetched again, so that a run which replaces another does only what is
    left, and an interval that is over is simply completed. With a spool the capture goes on while the database is
    away: bars wait on disk and go in when it is back, and what a dead run of the market left there goes in first.

    Args:
        exchange: an open market.
        database: where the bars go; the first capture of a bar wins, a differing later one becomes a revision.
        symbols: the symbols of the market.
        interval: the minutes that must be complete in the end.
        delay_s: d; after so many exchange seconds a bar that has not come is fetched by REST.
        overlap_s: how long the stream goes on after the interval, in exchange seconds.
        run_id: stored with every bar, so that it can be traced to the run that brought it.
        spool: the market's own; None: a database that stays away ends the stream.
        metrics_port: where Prometheus may read how the stream stands; None: nowhere.
        on_progress: told (bars settled, bars expected) after each batch; what it raises is logged and no more.
        on_minute: told every minute of the interval when its bars should be there.
        on_start: given a function that says how the stream stands.
        stopping: once it is set, the minute that runs is the last one of the interval, and there is no overlap.
        part: which part of the universe the symbols are (`1/4`: the first of four), for the connection log; None, for
            symbols of no universe: no log is kept.

    Returns:
        The report; `bars_spooled` is above zero when the database did not come back in time.
    """
    async with AsyncExitStack() as open_things:
        sink = await _sink(open_things, database, spool, run_id)
        held = await _held(database, exchange.market, interval, wait=spool is None)
        metrics = await open_things.enter_async_context(serving_metrics(metrics_port))
        log = None if part is None else StreamLog(database, exchange.market, run_id, part)
        if log is not None:
            open_things.callback(log.close)
        report = await stream_bars(
            exchange,
            symbols,
            interval,
            sink,
            delay_s=delay_s,
            overlap_s=overlap_s,
            already=held,
            on_progress=None if on_progress is None else _harmless(on_progress),
            on_minute=on_minute if log is None else _logging(log, on_minute),
            on_start=_both(metrics, on_start),
            stopping=stopping,
        )
        if log is not None:
            # Those too that were over before the run began: nobody of it was connected then.
            log.tell(report.minutes)
        return report


def _logging(log: StreamLog, on_minute: OnMinute | None) -> OnMinute:
    """Write each minute into the connection log as soon as it is told: a run that is killed has said so much."""

    def tell(minute: MinuteStatus) -> None:
        row = (minute.minute_ms, minute.connected_s, minute.expected, minute.present)
        log.tell(pl.DataFrame([row], schema=MINUTES_SCHEMA, orient="row"))
        if on_minute is not None:
            on_minute(minute)

    return tell


async def _sink(open_things: AsyncExitStack, database: Database, spool: Spool | None, run_id: str) -> Sink:
    """The way into the database, with or without a spool before it."""
    if spool is None:

        async def record(bars: pl.DataFrame, channel: Channel) -> None:
            await asyncio.to_thread(database.record, bars, channel=channel, run_id=run_id)

        return record
    store = await open_things.enter_async_context(SafeStore(database, spool, run_id=run_id))
    # What waits there would be fetched again otherwise.
    await store.emptied(_EMPTYING_S)
    return store.take


async def _held(database: Database, market: Market, interval: Interval, *, wait: bool) -> set[tuple[str, int]]:
    """The bars that are stored already; none of them when the database is away and need not be waited for."""
    asking = asyncio.create_task(asyncio.to_thread(database.keys, market, interval))
    try:
        keys = await (asking if wait else asyncio.wait_for(asyncio.shield(asking), _ASKING_S))
    except (TimeoutError, DatabaseUnavailable) as error:
        if wait:
            raise
        asking.add_done_callback(_forgotten)
        _log.warning("the database is away: what it holds is fetched again", error=repr(error))
        return set()
    return set(keys.select("symbol", "timestamp").iter_rows())


def _forgotten(asking: asyncio.Task[pl.DataFrame]) -> None:
    """Look at an error that nobody waits for any more, so that it is not reported as overlooked."""
    if not asking.cancelled():
        asking.exception()


def _harmless(on_progress: Progress) -> Progress:
    """Telling somebody about a capture must not end it."""

    def tell(settled: int, expected: int) -> None:
        try:
            on_progress(settled, expected)
        except Exception as error:  # noqa: BLE001  whatever it is, the bars go on
            _log.warning("progress could not be told", error=repr(error))

    return tell


def _both(*told: OnStart | None) -> OnStart:
    def tell(status: Callable[[], StreamStatus]) -> None:
        for each in told:
            if each is not None:
                each(status)

    return tell


async def download_day(
    exchange: Exchange,
    lake: Lake,
    signature: Signature,
    symbols: Sequence[Symbol],
    day: date,
    *,
    replace: bool = False,
    universe_hash: str | None = None,
    fetched: Fetched | None = None,
    nearest: NearestBars | None = None,
) -> DayDownload:
    """Fetch a whole UTC day by REST and put it into the lake as one file, with the universe's hash noted in it.

    Beside it goes what is not in it and why (`Lake.write_absent`): an empty list when nothing is absent, which is a
    statement too. `fetched` is the day as somebody has fetched it already (bulk.py does, several days with one question), `nearest` what
    its other days have asked about the symbols.

    Raises:
        UsageError: the day is not over on the exchange.
        LakeConflict: the lake holds this day with other content, and `replace` is not set.
    """
    interval = Interval.of_day(day)
    now_ms = exchange.clock.now_ms()
    if interval.end_ms > now_ms:
        raise UsageError(f"{day} is not over: the exchange's clock says {iso(now_ms)}", hint="choose an earlier day")
    fetched = fetched or await fetch_bars(exchange, symbols, interval)
    written = await asyncio.to_thread(
        lake.write_day, signature, day, fetched.bars, replace=replace, universe_hash=universe_hash
    )
    # After the bars: what a refused day lacks must not be said of the day that stays.
    absent = await absences(exchange, fetched, interval, nearest)
    await asyncio.to_thread(lake.write_absent, signature, day, absent)
    return DayDownload(fetched, written, absent)


async def keep_empty_day(
    exchange: Exchange,
    lake: Lake,
    signature: Signature,
    day: date,
    fetched: Fetched,
    nearest: NearestBars | None = None,
) -> bool:
    """Keep that a UTC day has no bar, where it is proved of every minute; whether it is.

    Two answers without a bar are no proof of a whole day: an exchange that has lost it, or is being mended, answers so. That each
    symbol's first bar came later is one, and so is its delisting. `known_empty` finds it again.
    """
    absent = await absences(exchange, fetched, Interval.of_day(day), nearest)
    if not _is_proved(absent):
        return False
    await asyncio.to_thread(lake.write_absent, signature, day, absent)
    return True


def known_empty(lake: Lake, signature: Signature, symbols: Sequence[Symbol], day: date) -> bool:
    """Whether the lake keeps of a day without bars that none of these symbols was listed in any of its minutes."""
    absent = lake.read_absent(signature, day)
    told = absent.filter(pl.col("symbol").is_in(list(symbols))).height
    return told == len(symbols) * len(Interval.of_day(day).minutes) and _is_proved(absent)


def _is_proved(absent: pl.DataFrame) -> bool:
    """Whether each row says that the symbol was not listed, and from what that is known."""
    was_not_listed = pl.col("cause").is_in([NOT_LISTED_YET, DELISTED])
    without_bar = pl.col("proof").is_null() | pl.col("proof").str.contains('"first_bar": null', literal=True)
    return absent.height > 0 and absent.filter(~was_not_listed | without_bar).is_empty()
