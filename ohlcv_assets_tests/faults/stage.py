"""The servers of the fault matrix, and one watched stream over them.

Lives here: replay exchanges at forty times Binance's speed, one PostgreSQL, when things begin and end, and `streamed`. Does
not: any fault (matrix.py, trials.py).

On a busy machine opening a market takes seconds, and each of them is a minute there. So nothing is planned by the clock alone: the
minutes that are captured begin once every market is opened, the faults once every stream is subscribed, and the streams are
told to stop when the faults are over.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, ExitStack, contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql

from ohlcv_assets.capture import stream_into_database
from ohlcv_assets.exchange.binance import Exchange, open_exchange
from ohlcv_assets.exchange.stream_report import StreamReport
from ohlcv_assets.instruments import Market
from ohlcv_assets.settings import Settings
from ohlcv_assets.storage.database import Database
from ohlcv_assets.storage.local_postgres import LocalPostgres, LocalServer
from ohlcv_assets.storage.spool import Spool
from ohlcv_assets.timestamps import MINUTE_MS, Interval, floor_to
from ohlcv_assets_tests.faults.matrix import ROWS, Phase, Symbols
from ohlcv_assets_tests.fixtures.postgres import open_temporary_folder
from ohlcv_assets_tests.fixtures.replay import ReplayHandle, replay_process

SPEED, DELAY_S, OVERLAP_S = 40.0, 3.5, 30.0
SYMBOLS_A_ROW = 2
#: Where processes are started, that takes seconds which must not be many minutes.
_SPEEDS = {"processes": 10.0}
_PHASE_SYMBOLS = _CALM_SYMBOLS = 3
_TEMPLATE = "template_matrix"

#: Where each exchange's clock starts; midnight lies within the trial of symbols.
_STARTS = {
    "symbols": "2025-06-01T23:47Z",
    "cuts": "2025-06-01T12:00Z",
    "silence": "2025-06-01T12:00Z",
    "calm": "2025-06-01T12:00Z",
    "processes": "2025-06-01T12:00Z",
}
#: Minutes of faults, where they are not the sum of the phases; and minutes at most until every stream is subscribed.
_MINUTES = {"symbols": 12, "calm": 14, "processes": 5}
_LONGEST_WARM_UP_MINUTES = 60
#: Exchanges whose faults wait for the streams.
ARMED = ("symbols", "cuts", "silence")
#: How many streams of this process follow each market.
_STREAMS = {
    **{(server, market): 1 for server in ARMED for market in Market},
    ("calm", Market.FUTURES): 3,
    ("calm", Market.SPOT): 2,
}


@dataclass
class Watched:
    """A stream that is over, and what was seen of it: times of the exchange's clock in UNIX milliseconds.

    Attributes:
        exchange: the opened market, for its clock.
        asked: when klines of which symbol and interval were asked for.
        linked: when the count of its connections changed.
    """

    exchange: Exchange
    report: StreamReport | None = None
    asked: list[tuple[int, str, Interval]] = field(default_factory=list)
    linked: list[int] = field(default_factory=list)


@dataclass
class Stage:
    """The servers of all trials."""

    folder: Path
    exchanges: Mapping[str, ReplayHandle]
    postgres: LocalServer
    _starts_ms: dict[str, int] = field(default_factory=dict)
    _faults_ms: dict[str, int] = field(default_factory=dict)
    _stopping: dict[str, asyncio.Event] = field(default_factory=dict)
    _opened: dict[tuple[str, Market], list[Exchange]] = field(default_factory=dict)
    _numbers: Iterator[int] = field(default_factory=count)

    def database_url(self) -> str:
        """A fresh, migrated database."""
        name = f"trial_{next(self._numbers)}"
        with psycopg.connect(self.postgres.url("postgres"), autocommit=True) as connection:
            make = sql.SQL("create database {} template {}")
            connection.execute(make.format(sql.Identifier(name), sql.Identifier(_TEMPLATE)))
        return self.postgres.url(name)

    def spool(self) -> Spool:
        """A spool of its own."""
        return Spool(self.folder / f"spool-{next(self._numbers)}", limit_bytes=2**24)

    def start_ms(self, server: str) -> int:
        """The first minute that is captured from an exchange."""
        return self._starts_ms[server]

    def faults(self, server: str) -> Interval:
        """The minutes in which an exchange is broken, or in which we are."""
        start_ms = self._faults_ms.get(server, self._starts_ms[server])
        minutes = _MINUTES.get(server) or max(sum(p.minutes for p in phases(server, market)) for market in Market)
        return Interval(start_ms, start_ms + minutes * MINUTE_MS)

    def interval(self, server: str) -> Interval:
        """Every minute that must be there in the end."""
        return Interval(self._starts_ms[server], self.faults(server).end_ms)

    async def begin(self, open_things: AsyncExitStack) -> None:
        """Let the clocks run, open every market as often as it is needed, and say when the capture begins."""
        for name, handle in self.exchanges.items():
            handle.set_speed(_SPEEDS.get(name, SPEED))
        wanted = [key for key, times in _STREAMS.items() for _ in range(times)]
        opening = (open_exchange(market, Settings(exchange_url=self.exchanges[name].url)) for name, market in wanted)
        exchanges = await asyncio.gather(*(open_things.enter_async_context(each) for each in opening))
        for key, exchange in zip(wanted, exchanges, strict=True):
            self._opened.setdefault(key, []).append(exchange)
        for name in self.exchanges:
            self._starts_ms[name] = self.next_minute_ms(name) + MINUTE_MS
            self._stopping[name] = asyncio.Event()

    def next_minute_ms(self, server: str) -> int:
        """The minute after the one that runs on an exchange."""
        return floor_to(int(self.exchanges[server].stats()["clock_ms"]), MINUTE_MS) + MINUTE_MS

    def opened(self, server: str) -> list[Exchange]:
        """Every market that was opened there and not taken yet."""
        return [exchange for (name, _), exchanges in self._opened.items() if name == server for exchange in exchanges]

    async def arm(self, server: str, subscriptions: Mapping[Market, int]) -> None:
        """Wait until the streams are subscribed, and until then: the faults begin with the minute after the next."""
        while not await asyncio.to_thread(self._subscribed, server, subscriptions):  # noqa: ASYNC110  another process knows
            await asyncio.sleep(0.1)
        self._faults_ms[server] = self.next_minute_ms(server) + MINUTE_MS

    async def disarm(self, server: str) -> None:
        """Wait until the faults are over, and let the streams stop after the minute that runs."""
        now_ms = (await asyncio.to_thread(self.exchanges[server].stats))["clock_ms"]
        await asyncio.sleep((self.faults(server).end_ms - MINUTE_MS // 2 - now_ms) / 1000 / SPEED)
        self._stopping[server].set()

    def _subscribed(self, server: str, subscriptions: Mapping[Market, int]) -> bool:
        there = self.exchanges[server].stats()["subscriptions"]
        return all(there[market] >= wanted for market, wanted in subscriptions.items())

    async def streamed(
        self, server: str, market: Market, database: Database, *, symbols: Sequence[str] | None = None, run_id: str = "trial"
    ) -> Watched:  # fmt: skip
        """One whole stream of an exchange's interval into a database, watched."""
        exchange = self._opened[server, market].pop()
        watched = Watched(exchange)
        exchange.klines = _observed(exchange, watched)  # type: ignore[method-assign]
        watching: list[asyncio.Task[None]] = []
        start_ms = self._starts_ms[server]
        longest = Interval(start_ms, start_ms + _LONGEST_WARM_UP_MINUTES * MINUTE_MS)
        try:
            watched.report = await stream_into_database(
                exchange,
                database,
                symbols or sorted(exchange.listing),
                longest if server in ARMED else self.interval(server),
                delay_s=DELAY_S,
                overlap_s=OVERLAP_S,
                run_id=run_id,
                spool=self.spool(),
                stopping=self._stopping[server],
                on_start=lambda status: watching.append(asyncio.create_task(_watch(watched, status))),
            )
        finally:
            for task in watching:
                task.cancel()
        return watched


def phases(server: str, market: Market) -> list[Phase]:
    """The phases of an exchange's market, in their order."""
    return [row.shown for row in ROWS if isinstance(row.shown, Phase) and (row.shown.server, row.shown.market) == (server, market)]  # fmt: skip


@contextmanager
def stage() -> Iterator[Stage]:
    """All servers, their clocks still slow."""
    with open_temporary_folder() as folder, ExitStack() as running:
        local = LocalPostgres(folder / "one")
        running.callback(local.down)
        server = local.up()
        _make_template(server)
        futures = sum(isinstance(r.shown, Symbols) and r.shown.market is Market.FUTURES for r in ROWS)
        sizes = {"symbols": SYMBOLS_A_ROW * futures, "calm": _CALM_SYMBOLS}
        with ThreadPoolExecutor() as threads:
            started = {
                name: threads.submit(
                    running.enter_context,
                    replay_process(symbols=sizes.get(name, _PHASE_SYMBOLS), days=2, start=start),
                )
                for name, start in _STARTS.items()
            }
            exchanges = {name: starting.result() for name, starting in started.items()}
        yield Stage(folder, exchanges, server)


def _make_template(server: LocalServer) -> None:
    with psycopg.connect(server.url("postgres"), autocommit=True) as connection:
        connection.execute("alter system set fsync = off")
        connection.execute("select pg_reload_conf()")
        connection.execute(sql.SQL("create database {}").format(sql.Identifier(_TEMPLATE)))
    with Database(server.url(_TEMPLATE)) as database:
        database.migrate()


def _observed(exchange: Exchange, watched: Watched) -> Any:
    """The exchange's own `klines`, each question written down."""
    ask = exchange.klines

    async def klines(symbol: Any, interval: Interval, *lane: Any) -> Any:
        watched.asked.append((exchange.clock.now_ms(), str(symbol), interval))
        return await ask(symbol, interval, *lane)

    return klines


async def _watch(watched: Watched, status: Any) -> None:
    links = 0
    while True:
        now = status()
        if (found := now.reconnects + now.hand_overs) != links:
            links = found
            watched.linked.append(now.now_ms)
        await asyncio.sleep(0.02)
