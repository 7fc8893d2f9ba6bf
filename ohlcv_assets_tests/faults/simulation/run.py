"""One run: streamers that are killed and started again, until the interval is captured; then the verdict.

Lives here: who runs when, and the small supervisor that does what a sensor does. Does not: the faults themselves, or what
is right (verdict.py). A streamer is `open_exchange` and `stream_into_database`, as in a Dagster run or on the command
line; at the end `fetch_bars` asks for the settled bars, as the daily job does.
"""

import asyncio
import logging
import random
import shutil
import tempfile
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any
from unittest.mock import patch

import structlog

from ohlcv_assets.capture import stream_into_database
from ohlcv_assets.clock import ExchangeClock
from ohlcv_assets.errors import OhlcvError, TransientError
from ohlcv_assets.exchange import binance
from ohlcv_assets.exchange.binance import open_exchange
from ohlcv_assets.exchange.fetch import Fetched, fetch_bars
from ohlcv_assets.exchange.stream_report import StreamReport
from ohlcv_assets.instruments import Market, Symbol
from ohlcv_assets.logs import show_from
from ohlcv_assets.settings import Settings
from ohlcv_assets.storage.spool import Spool
from ohlcv_assets.timestamps import Interval
from ohlcv_assets_tests.faults.simulation.faults import BEFORE_S, Clock, Plan, draw
from ohlcv_assets_tests.faults.simulation.loop import Process, Stuck, VirtualLoop, virtual_time
from ohlcv_assets_tests.faults.simulation.store import DatabaseOf, MemoryDatabase
from ohlcv_assets_tests.faults.simulation.transport import Session
from ohlcv_assets_tests.faults.simulation.verdict import Verdict, judge, judge_look
from ohlcv_assets_tests.faults.simulation.world import World

#: A run that is not over so many virtual seconds after its last fault will never be.
_HORIZON_S = 3600.0
_MOST_STARTS = 60
#: The machine's wall clock is somewhere else altogether; nothing may depend on it.
_WALL_CLOCK_S = 1_600_000_000.0
MINUTES = 12
#: A folder in memory, where there is one: a spool waits for the disk at each batch.
_MEMORY = Path("/dev/shm")  # noqa: S108


class Run:
    """One seed, from the first streamer to the verdict.

    Args:
        world: the exchange and the faults of the seed.
        database: a `MemoryDatabase`, or a `Database`.
        folder: the machine's disk, which the streamers share: the request budget and the spool.
    """

    def __init__(self, world: World, database: Any, folder: Path) -> None:
        self.world, self.plan, self.loop = world, world.plan, world.loop
        self.database, self.folder = database, folder
        self.reports: list[StreamReport] = []
        self.processes: list[Process] = []
        self.main: tuple[Process, asyncio.Task[Any]] | None = None
        # Apart from the world's: how often one asks must not change what the other gets.
        self._chance = random.Random(f"run {self.plan.seed}")

    async def live(self) -> Verdict:
        """Capture the interval under all faults, fetch the settled truth, and judge."""
        world = self.world
        world.begin()
        twin = self.loop.create_task(self._twin())
        looks = [self.loop.create_task(self._look(at_s)) for at_s in self.plan.looks_s]
        for kill in self.plan.kills:
            self.loop.call_later(kill.at_s, self._kill_main, kill.gently)
        await asyncio.sleep(self.plan.starts_s)
        await self._supervise()
        await asyncio.gather(twin, *looks)
        await asyncio.sleep(max(0.0, self.plan.ends_s + 60 - world.now_s))
        fetched = await self._fetch("fetcher", world.interval)
        return judge(world, self.database, self.reports, fetched)

    # The streamers ----------------------------------------------------------------------------------------------

    async def _supervise(self) -> None:
        """Start a streamer, and another one whenever it ends without a report."""
        for number in range(1, _MOST_STARTS + 1):
            process = self._process(f"streamer-{number}")
            task = self.loop.start(process, self._stream(process))
            self.main = process, task
            if await self._ended(process, task):
                return
            await asyncio.sleep(self._chance.uniform(2.0, 30.0))
        self.world.violations.append(f"{_MOST_STARTS} streamers and no report")

    async def _twin(self) -> None:
        """A second streamer of the same interval, which nobody starts again."""
        if self.plan.twin is None:
            return
        start_s, kill_s = self.plan.twin
        await asyncio.sleep(start_s)
        self.world.inject("twin_streamer")
        process = self._process("twin")
        task = self.loop.start(process, self._stream(process))
        self.loop.call_later(kill_s - start_s, self._kill, process, task, False)
        await self._ended(process, task)

    async def _stream(self, process: Process) -> StreamReport:
        spool = Spool.of(self._settings, self.plan.market) if self.plan.spool else None
        async with self._opened(process) as exchange:
            return await stream_into_database(
                exchange,
                DatabaseOf(self.database, self.world, process),  # type: ignore[arg-type]
                self._symbols(),
                self.world.interval,
                delay_s=self.plan.delay_s,
                overlap_s=self.plan.overlap_s,
                run_id=process.name,
                spool=spool,
            )

    async def _ended(self, process: Process, task: asyncio.Task[Any]) -> bool:
        """Wait until it has ended or is killed; whether it made a report."""
        while not task.done() and process.alive:
            await asyncio.wait([task], timeout=1.0)
        if not process.alive:
            self.world.note(process.name, "was killed")
            return False
        if task.cancelled():
            self.world.note(process.name, "was cancelled")
            return False
        error = task.exception()
        if error is None:
            self.world.note(process.name, "reported", task.result().bars_present, task.result().missing.height)
            self.reports.append(task.result())
            return True
        self.world.note(process.name, "failed", type(error).__name__)
        if not isinstance(error, TransientError):
            self.world.violations.append(f"{process.name} failed with {error!r}")
        return False

    def _kill_main(self, gently: bool) -> None:
        if self.main is not None:
            self._kill(*self.main, gently)

    def _kill(self, process: Process, task: asyncio.Task[Any], gently: bool) -> None:
        if task.done() or not process.alive:
            return
        self.world.inject("cancelled" if gently else "killed", process.name)
        if gently:
            task.cancel()
        else:
            self.loop.kill(process)

    # Parts ------------------------------------------------------------------------------------------------------

    def _process(self, name: str) -> Process:
        self.processes.append(Process(name))
        return self.processes[-1]

    def _opened(self, process: Process) -> Any:
        self.world.note(process.name, "starts")
        return open_exchange(self.plan.market, self._settings)

    @cached_property
    def _settings(self) -> Settings:
        return Settings(exchange_url="http://exchange.invalid", home=self.folder, weight_share=self.plan.weight_share)

    def _symbols(self) -> list[Symbol]:
        return [Symbol(tape.symbol) for tape in self.world.tape.symbols.values()]

    async def _fetch(self, name: str, interval: Interval) -> Fetched:
        """Bars by the product's own fetch."""

        async def fetch(process: Process) -> Fetched:
            async with self._opened(process) as exchange:
                return await fetch_bars(exchange, self._symbols(), interval)

        process = self._process(name)
        return await self.loop.start(process, fetch(process))

    async def _look(self, at_s: float) -> None:
        """Fetch what is over of the interval, and a little more, in the middle of everything."""
        await asyncio.sleep(at_s)
        interval = Interval(self.world.interval.start_ms, self.world.now_ms + 90_000)
        try:
            fetched = await self._fetch("look", interval)
        except TransientError as error:
            self.world.note("look", "failed", type(error).__name__)
            return
        self.world.note("look", fetched.bars.height, fetched.missing.height)
        self.world.look_at(fetched.bars)
        judge_look(self.world, fetched)


def simulate(
    seed: int,
    *,
    minutes: int = MINUTES,
    plan: Plan | None = None,
    database: Any = None,
    show: Callable[[str], None] = lambda _line: None,
    logs: bool = False,
) -> Verdict:
    """One run of a seed; never raises for what is wrong with the product.

    Args:
        seed: decides everything.
        minutes: length of the interval that is captured.
        plan: what goes wrong; None: what the seed says.
        database: an empty one of its interval; None: one in memory.
        show: called with each line of the history.
        logs: whether the product's own log is shown.
    """
    loop = VirtualLoop()
    loop.set_exception_handler(lambda _loop, _context: None)
    with ExitStack() as surroundings:
        folder = Path(tempfile.mkdtemp(prefix="ohlcv-simulation-", dir=_MEMORY if _MEMORY.is_dir() else None))
        surroundings.callback(shutil.rmtree, folder, ignore_errors=True)
        surroundings.callback(loop.close)
        surroundings.enter_context(virtual_time(loop, _WALL_CLOCK_S, seed))
        world = World(plan or draw(seed, minutes), loop)
        surroundings.enter_context(_simulated(world, folder))
        world.show = show
        if not logs:
            surroundings.enter_context(_silence())
        loop.thread_pause_s = lambda: world.chance.uniform(0.5, 8.0) if world.window("db_slow") else 0.0
        run = Run(world, MemoryDatabase() if database is None else database, folder)
        horizon_s = world.plan.ends_s + _HORIZON_S
        try:
            return loop.run_until_complete(asyncio.wait_for(run.live(), horizon_s))
        except (TimeoutError, Stuck, OhlcvError) as error:
            if logs:
                traceback.print_exc()
            return Verdict.of_failure(world, repr(error))
        finally:
            _end_all(loop, run.processes)


def _end_all(loop: VirtualLoop, processes: Iterable[Process]) -> None:
    """End what killed processes left in memory, and whatever else there is; nothing takes what they say now."""
    for process in processes:
        process.cut_off = True
        if not process.alive:
            loop.bury(process)

    async def cancel(tasks: Iterable[asyncio.Task[Any]]) -> None:
        left = [task for task in tasks if not task.done()]
        for task in left:
            task.cancel()
        if left:
            await asyncio.wait(left, timeout=300.0)

    async def end() -> None:
        # A process's first task ends those that it started, in its own order; cancelled twice, one would not clean up.
        await cancel(process.tasks[0] for process in processes if process.tasks)
        await cancel(asyncio.all_tasks() - {asyncio.current_task()})  # type: ignore[arg-type]

    loop.run_until_complete(end())


@contextmanager
def _simulated(world: World, folder: Path) -> Iterator[None]:
    """Put the world in the place of the network: a session, the measured clock, and the folder of the budget."""

    def measured(_market: Market, _url: str | None) -> ExchangeClock:
        clock: Clock = world.plan.clock
        exchange_ms = world.interval.start_ms + (world.now_s - BEFORE_S) * 1000
        return ExchangeClock(
            exchange_ms + clock.error_s * 1000, world.loop.time(), 1.0 + clock.drift, clock.uncertainty_s
        )

    with (
        patch("aiohttp.ClientSession", lambda **_: Session(world)),
        patch("aiohttp.TCPConnector", lambda **_: _Connector()),
        # Reading the certificates takes a third of a run, and nothing here is encrypted.
        patch("ssl.create_default_context", lambda **_: False),
        patch.object(binance, "measure_clock", measured),
        patch.object(tempfile, "tempdir", str(folder)),
    ):
        yield


class _Connector:
    """What ccxt closes beside a session."""

    async def close(self) -> None:
        """There is nothing to close."""


@contextmanager
def _silence() -> Iterator[None]:
    """No log lines: a hundred seeds write a hundred thousand."""
    before = structlog.get_config()
    show_from(logging.CRITICAL)
    try:
        yield
    finally:
        structlog.configure(**before)
