"""Trials that break our own side: processes that are killed or told to stop, a database that is away, two runs at once.

Lives here: one function a trial, or one for several rows that share a server. Does not: the servers (trials.py).
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import sys
from collections.abc import Awaitable, Callable
from contextlib import suppress

import polars as pl
import psycopg

from ohlcv_assets.exchange.server_time import measure_clock
from ohlcv_assets.instruments import Market
from ohlcv_assets.settings import Settings
from ohlcv_assets.storage.database import Database
from ohlcv_assets.storage.local_postgres import LocalPostgres
from ohlcv_assets.timestamps import MINUTE_MS
from ohlcv_assets_tests.faults.findings import Found, judged, within
from ohlcv_assets_tests.faults.stage import Stage, Watched

_LOCKED_S = 4.0


async def _streamer(staged: Stage, market: Market, database_url: str, run: str) -> asyncio.subprocess.Process:
    """A streaming process whose stream has begun."""
    interval = staged.interval("processes")
    options = {
        "exchange": staged.exchanges["processes"].url,
        "database": database_url,
        "market": market.value,
        "run": run,
        "spool": str(staged.folder / f"spool-{run}"),
        "start": str(interval.start_ms),
        "end": str(interval.end_ms),
    }
    arguments = [part for name, value in options.items() for part in (f"--{name}", value)]
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "ohlcv_assets_tests.faults.streamer", *arguments, stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    assert await process.stdout.readline() == b"streaming\n"
    return process


def _found(staged: Stage, server: str, market: Market, stored: pl.DataFrame, injected: int, **facts: object) -> Found:
    truth = within(staged.exchanges[server].truth(market), staged.interval(server))
    return judged(truth, stored, injected=injected, **facts)  # type: ignore[arg-type]


async def killed(staged: Stage) -> dict[str, Found]:
    """Three times a process is killed while it streams; the fourth does what is left."""
    market, url = Market.FUTURES, staged.database_url()
    clock = await asyncio.to_thread(measure_clock, market, staged.exchanges["processes"].url)
    killings = 0
    for _ in range(3):
        process = await _streamer(staged, market, url, "killed")
        await asyncio.sleep(random.uniform(0.5, 3.0))
        with suppress(ProcessLookupError):  # on a busy machine the hour may be over
            process.send_signal(signal.SIGKILL)
        killings += await process.wait() == -signal.SIGKILL
    last = await _streamer(staged, market, url, "killed")
    assert await last.wait() == 0
    with Database(url) as database:
        stored = await asyncio.to_thread(database.read, market, staged.interval("processes"))
    return {"1": _found(staged, "processes", market, stored, killings, clock=clock)}


async def terminated(staged: Stage) -> dict[str, Found]:
    """A process is told to stop: what was over by then is stored when it ends, and a second process does the rest."""
    market, url, interval = Market.SPOT, staged.database_url(), staged.interval("processes")
    clock = await asyncio.to_thread(measure_clock, market, staged.exchanges["processes"].url)
    process = await _streamer(staged, market, url, "terminated")
    await clock.sleep(max(0.0, (interval.start_ms - clock.now_ms()) / 1000) + 40)
    told_ms = clock.now_ms()
    process.terminate()
    assert await process.wait() == 0, process.returncode
    ended_ms = clock.now_ms()
    over = pl.col("timestamp") + MINUTE_MS <= told_ms
    with Database(url) as database:
        at_its_end = await asyncio.to_thread(database.read, market, interval)
        last = await _streamer(staged, market, url, "terminated")
        assert await last.wait() == 0
        stored = await asyncio.to_thread(database.read, market, interval)
    truth = within(staged.exchanges["processes"].truth(market), interval).filter(over)
    lost_by_stopping = truth.join(at_its_end, on=["symbol", "timestamp"], how="anti").height
    found = _found(
        staged,
        "processes",
        market,
        stored,
        1,
        clock=clock,
        detect_s=(ended_ms - told_ms) / 1000,
        false_alarms=lost_by_stopping,
    )
    return {"5": found}


async def database_away(staged: Stage) -> dict[str, Found]:
    """One stream begins while its database is stopped; later the server is restarted, and killed, under two streams."""
    settings = Settings(home=staged.folder / "two")
    local = LocalPostgres(settings.home)
    databases = [await asyncio.to_thread(Database.open, settings) for _ in Market]
    await asyncio.to_thread(local.down)
    try:
        first = asyncio.create_task(staged.streamed("calm", Market.FUTURES, databases[0], run_id="down"))
        await asyncio.sleep(6)
        await asyncio.to_thread(local.up)
        second = asyncio.create_task(staged.streamed("calm", Market.SPOT, databases[1], run_id="restarted"))
        await asyncio.sleep(3)
        await asyncio.to_thread(local.down)
        await asyncio.to_thread(local.up)
        await asyncio.sleep(2)
        pid = local.status().pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        watched = await asyncio.gather(first, second)
        return {
            "6": await _from_database(staged, databases[0], watched[0], injected=1),
            "7": await _from_database(staged, databases[1], watched[1], injected=2),
        }
    finally:
        for database in databases:
            database.close()
        await asyncio.to_thread(local.down)


async def database_locked(staged: Stage) -> dict[str, Found]:
    """Somebody holds the table of bars for four seconds, four minutes of the exchange."""
    url = staged.database_url()

    async def lock() -> None:
        clock = await asyncio.to_thread(measure_clock, Market.SPOT, staged.exchanges["calm"].url)
        await clock.sleep((staged.interval("calm").start_ms + 3 * MINUTE_MS - clock.now_ms()) / 1000)
        async with await psycopg.AsyncConnection.connect(url) as connection:
            await connection.execute("lock table bars in access exclusive mode")
            await asyncio.sleep(_LOCKED_S)
            await connection.rollback()

    with Database(url) as database:
        watched, _ = await asyncio.gather(staged.streamed("calm", Market.SPOT, database), lock())
        return {"9": await _from_database(staged, database, watched, injected=1)}


async def two_at_once(staged: Stage) -> dict[str, Found]:
    """Two runs capture the same minutes into one database."""
    url, market = staged.database_url(), Market.FUTURES
    with Database(url) as one, Database(url) as other:
        watched = await asyncio.gather(
            staged.streamed("calm", market, one, run_id="one"),
            staged.streamed("calm", market, other, run_id="other"),
        )
        revisions = await asyncio.to_thread(one.revisions, market, staged.interval("calm"))
        return {"28b": await _from_database(staged, one, watched[0], injected=1, false_alarms=revisions.height)}


async def _from_database(staged: Stage, database: Database, watched: Watched, **facts: int) -> Found:
    market = watched.exchange.market
    stored = await asyncio.to_thread(database.read, market, staged.interval("calm"))
    return _found(staged, "calm", market, stored, clock=watched.exchange.clock, **facts)


#: Every function of this module that is a trial.
OWN: tuple[Callable[[Stage], Awaitable[dict[str, Found]]], ...] = (
    killed,
    terminated,
    database_away,
    database_locked,
    two_at_once,
)
