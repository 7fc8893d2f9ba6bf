"""`ohlcv demo`: one real day of bars through the whole platform, with an exchange of its own.

Lives here: the order of the demo's steps. Every step is the platform's own: runs of Dagster's jobs, launched as the
UI launches them, against a replay exchange that speaks Binance's protocol. Does not: the table that it ends with
(demo_table.py), or a second way of doing anything.

The last hour of the day is streamed live at sixty times its speed; the other 23 hours come into PostgreSQL by
the same asset, which completes hours that are over by REST; the day is downloaded into the lake and compared. Then one
bar in PostgreSQL is changed behind the platform's back, and the comparison has to name it.
"""

from __future__ import annotations

import json
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import date, timedelta
from pathlib import Path

import filelock
import psycopg
import requests
from rich.console import Console

from ohlcv_assets.errors import Refused
from ohlcv_assets.instruments import Market, Universe, release_universe
from ohlcv_assets.platform.dagster_api import Run
from ohlcv_assets.platform.demo_home import remember
from ohlcv_assets.platform.demo_table import DemoResult, MarketResult
from ohlcv_assets.platform.processes import free_port
from ohlcv_assets.platform.servers import Platform
from ohlcv_assets.platform.up import home_lock
from ohlcv_assets.settings import Settings
from ohlcv_assets.storage.local_postgres import LocalPostgres, bars_url
from ohlcv_assets.timestamps import HOUR_MS, MINUTE_MS, Interval, iso

UNIVERSE = "v0.1"
#: Seconds of our own time between the launch of the streaming runs and their hour: a run needs some ten to start,
#: however fast the exchange's clock runs.
_LEAD_WALL_S = 15
_RUN_S = 300.0
#: How long after the day's end the exchange's clock starts when only the UI is opened: by then a whole day can be asked for.
_AFTERWARDS_MS = HOUR_MS // 2


@dataclass(frozen=True)
class DemoOptions:
    """What is replayed, and how fast.

    Attributes:
        day: the UTC day that goes through the platform.
        data: a recorded Parquet file of one market; None generates both markets.
        market: the market of `data`; without a file, the only one that is shown; None shows both.
        symbols: how many symbols a market are generated.
        seed: of the generated bars.
        speed: exchange seconds per second.
    """

    day: date
    data: Path | None = None
    market: Market | None = None
    symbols: int = 20
    seed: int = 7
    speed: float = 60.0

    @property
    def markets(self) -> list[Market]:
        """The markets that the demo shows."""
        return [self.market] if self.market else [Market.FUTURES, Market.SPOT]

    def replay_command(self, start_ms: int, port: int) -> list[str]:
        """The replay exchange's command line: its clock starts at `start_ms`, standing still at 1x."""
        command = [
            sys.executable,
            "-m",
            "ohlcv_assets.cli",
            "replay",
            "--start",
            iso(start_ms),
            "--speed",
            "1",
            "--port",
            str(port),
        ]
        if self.data:
            return [*command, "--data", str(self.data.absolute()), "--market", str(self.markets[0])]
        generated = ["--generate", "--symbols", str(self.symbols), "--days", "2", "--seed", str(self.seed)]
        return [*command, *generated, "--first-day", self.day.isoformat()]


def demo_settings(home: Path, options: DemoOptions, exchange_url: str) -> Settings:
    """The demo's deployment: everything under `home`, the replay exchange for Binance, its symbols as the universe."""
    return Settings(
        home=home,
        # Whatever database or lake the environment names: the demo keeps to its own.
        database_url=None,
        lake=None,
        universes=home / "universes",
        universe=UNIVERSE,
        exchange_url=exchange_url,
        # The day and nothing else, so that its 24 hours are all that the UI's partition pages show.
        streamed_since=options.day.isoformat(),
        daily_since=options.day.isoformat(),
        partitions_until=(options.day + timedelta(days=1)).isoformat(),
        # d in seconds of a clock that runs sixty times as fast as this machine does: one second of its own.
        download_delay_s=options.speed,
        stream_overlap_s=2 * options.speed,
    )


def _day_over_ms(options: DemoOptions) -> int:
    return Interval.of_day(options.day).end_ms + _AFTERWARDS_MS


@dataclass
class Demo:
    """One demo, step by step; `run` does it all."""

    options: DemoOptions
    home: Path
    console: Console
    seconds: dict[str, float] = field(default_factory=dict)

    def run(self) -> DemoResult:
        """Do every step, show progress, and return what the table shows."""
        exchange_url = f"http://127.0.0.1:{free_port()}"
        settings = demo_settings(self.home, self.options, exchange_url)
        with self._alone(), Platform(settings) as platform:
            self.home.mkdir(parents=True)
            remember(self.home, settings, self._exchange_command(exchange_url, _day_over_ms(self.options)))
            self._start(platform, exchange_url)
            runs = self._stream_and_backfill(platform)
            runs |= self._download_and_compare(platform)
            results = [_read_result(platform, market, self.options.day, runs) for market in self.options.markets]
            corrupted = self._corrupt_one_bar(platform)
            location = f"{settings.lake_url} (Parquet), {self.home} (PostgreSQL, logs)"
        return DemoResult(self.options.day, results, corrupted, self.seconds, location)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """No second demo in this folder, and nothing left of the last one."""
        self.home.parent.mkdir(parents=True, exist_ok=True)
        lock = filelock.FileLock(home_lock(self.home))
        try:
            lock.acquire(timeout=0)
        except filelock.Timeout as error:
            raise Refused(f"another demo, or its UI, is using {self.home}", hint="stop it first") from error
        with lock:
            LocalPostgres(self.home).down()
            shutil.rmtree(self.home, ignore_errors=True)
            yield

    @contextmanager
    def _step(self, name: str) -> Iterator[Callable[[str], None]]:
        started_s = time.monotonic()
        with self.console.status(name) as status:
            yield lambda progress: status.update(f"{name}: {progress}")
        self.seconds[name] = time.monotonic() - started_s
        self.console.print(f"  [green]✓[/green] {name:52} [dim]{self.seconds[name]:6.1f} s[/dim]", highlight=False)

    def _exchange_command(self, exchange_url: str, start_ms: int) -> list[str]:
        return self.options.replay_command(start_ms, int(exchange_url.rpartition(":")[2]))

    def _start(self, platform: Platform, exchange_url: str) -> None:
        with self._step("start PostgreSQL"):
            platform.start_postgres()
        with self._step("start the replay exchange and Dagster"):
            start_ms = (
                Interval.of_day(self.options.day).end_ms - HOUR_MS - int(_LEAD_WALL_S * self.options.speed * 1000)
            )
            replay = platform.start("replay-exchange", self._exchange_command(exchange_url, start_ms))
            platform.start_dagster()
            replay.wait_until(lambda: _answers(exchange_url), timeout_s=60)
            universe = _listed(exchange_url, self.options.markets)
            release_universe(universe, platform.settings.universes)

    def _stream_and_backfill(self, platform: Platform) -> dict[str, Run]:
        api = platform.api
        day = self.options.day.isoformat()
        url = str(platform.settings.exchange_url)
        with self._step("stream 23:00-24:00 live, backfill 00:00-23:00") as show:
            requests.post(f"{url}/_replay/clock", json={"speed": self.options.speed}, timeout=5).raise_for_status()
            jobs = {market: f"{market}_stream_hour" for market in self.options.markets}
            runs = {f"{market} stream": api.launch(job, partition=f"{day}-23:00") for market, job in jobs.items()}
            _wait_for_subscriptions(url, len(jobs))
            before = (f"{day}-00:00", f"{day}-22:00")
            runs |= {f"{market} backfill": api.launch(job, partitions=before) for market, job in jobs.items()}
            return _finish(platform, runs, lambda: show(f"the exchange's clock says {_clock(url)}"))

    def _download_and_compare(self, platform: Platform) -> dict[str, Run]:
        day = self.options.day.isoformat()
        with self._step("download the day into the lake, compare"):
            runs = {
                f"{market} day": platform.api.launch(f"{market}_day", partition=day)
                for market in self.options.markets
            }
            return _finish(platform, runs)

    def _corrupt_one_bar(self, platform: Platform) -> str:
        """Change one bar behind the platform's back; the check has to be red and to name exactly that bar."""
        market, day = self.options.markets[0], self.options.day.isoformat()
        with self._step("change one bar in PostgreSQL, compare again"):
            symbol, timestamp_ms = _corrupt(platform.settings, market, self.options.day)
            run_id = platform.api.launch(f"{market}_day_qa", partition=day)
            platform.api.wait([run_id], timeout_s=_RUN_S)
            check = platform.api.last_check(
                [platform.settings.region, market.value, "daily_qa"], "streamed_equals_fetched"
            )
        named = _named_bars(check)
        if check["passed"] or check["run_id"] != run_id or named != {(symbol, iso(timestamp_ms))}:
            raise Refused(f"the check did not name {symbol} {iso(timestamp_ms)}: {check}")
        return f"{symbol} {iso(timestamp_ms)}: the check is red and names exactly this bar"


def _answers(exchange_url: str) -> bool:
    try:
        return requests.get(f"{exchange_url}/fapi/v1/ping", timeout=1).ok
    except requests.RequestException:
        return False


def _stats(exchange_url: str) -> dict[str, object]:
    answer: dict[str, object] = requests.get(f"{exchange_url}/_replay/stats", timeout=5).json()
    return answer


def _clock(exchange_url: str) -> str:
    return iso(int(requests.get(f"{exchange_url}/fapi/v1/time", timeout=5).json()["serverTime"]) // 1000 * 1000)


def _listed(exchange_url: str, markets: list[Market]) -> Universe:
    """A universe of everything that the replay exchange lists."""
    paths = {Market.SPOT: "/api/v3/exchangeInfo", Market.FUTURES: "/fapi/v1/exchangeInfo"}
    names: dict[Market, list[str]] = {}
    for market in markets:
        listed = requests.get(f"{exchange_url}{paths[market]}", timeout=10).json()["symbols"]
        settle = ":{quoteAsset}" if market is Market.FUTURES else ""
        names[market] = [("{baseAsset}/{quoteAsset}" + settle).format(**entry) for entry in listed]
    return Universe.of(UNIVERSE, names)


def _wait_for_subscriptions(exchange_url: str, markets: int, timeout_s: float = 60.0) -> None:
    """Until every market has a live stream: the backfill must not take the processors from a run that starts."""
    deadline_s = time.monotonic() + timeout_s
    while time.monotonic() < deadline_s:
        subscriptions = _stats(exchange_url)["subscriptions"]
        if isinstance(subscriptions, dict) and sum(1 for count in subscriptions.values() if count) >= markets:
            return
        time.sleep(0.3)


def _finish(
    platform: Platform, run_ids: dict[str, str], on_poll: Callable[[], None] = lambda: None
) -> dict[str, Run]:
    """Wait for runs and insist on their success; a server that ends meanwhile is said at once."""

    def poll() -> None:
        platform.check()
        on_poll()

    finished = platform.api.wait(list(run_ids.values()), timeout_s=_RUN_S, on_poll=poll)
    runs = dict(zip(run_ids, finished, strict=True))
    failed = [name for name, run in runs.items() if run.status != "SUCCESS"]
    if failed:
        raise Refused(f"these runs failed: {', '.join(failed)}", hint="make ui, and open Runs")
    return runs


def _read_result(platform: Platform, market: Market, day: date, runs: dict[str, Run]) -> MarketResult:
    region = platform.settings.region
    check = platform.api.last_check([region, market.value, "daily_qa"], "streamed_equals_fetched")
    hour_key = f"{day.isoformat()}-23:00"
    hour = platform.api.materializations([region, market.value, "streamed_bars"], [hour_key])[hour_key]
    seconds = {
        name.removeprefix(f"{market} "): run.taken_s for name, run in runs.items() if name.startswith(f"{market} ")
    }
    complete = platform.api.last_check([region, market.value, "daily_qa"], "streamed_complete")["description"]
    return MarketResult(market, check, hour, platform.settings.download_delay_s, seconds, str(complete))


def _corrupt(settings: Settings, market: Market, day: date) -> tuple[str, int]:
    """Double the volume of one bar, as nobody but the database's owner could; returns which."""
    timestamp_ms = Interval.of_day(day).start_ms + 12 * HOUR_MS + 34 * MINUTE_MS
    with psycopg.connect(bars_url(settings)) as connection:
        connection.execute("set session_replication_role = replica")
        row = connection.execute(
            "select symbol from bars where market = %s and timestamp = %s and volume > 0 order by symbol limit 1",
            (market.value, timestamp_ms),
        ).fetchone()
        if row is None:
            raise Refused(f"no {market} bar was traded at {iso(timestamp_ms)}")
        connection.execute(
            "update bars set volume = volume * 2 where market = %s and timestamp = %s and symbol = %s",
            (market.value, timestamp_ms, row[0]),
        )
    return row[0], timestamp_ms


def _named_bars(check: dict[str, object]) -> set[tuple[str, str]]:
    """The bars that a check's table names."""
    table = check.get("first_differences")
    records = table["records"] if isinstance(table, dict) else []
    rows = [json.loads(record) if isinstance(record, str) else record for record in records]
    return {(row["symbol"], row["timestamp"]) for row in rows}
