"""`ohlcv up`: the platform against the exchange until Ctrl-C. `ohlcv ui`: the webserver alone, over what is there.

Lives here: what a person sees while the platform runs. Does not: how its servers are started (servers.py).
"""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import filelock
from rich.console import Console

from ohlcv_assets.errors import ExchangeUnavailable, Refused
from ohlcv_assets.exchange.binance import open_exchange
from ohlcv_assets.exchange.server_time import measure_clock
from ohlcv_assets.instruments import Market, Universe, load_universe
from ohlcv_assets.platform.servers import Platform
from ohlcv_assets.settings import Settings
from ohlcv_assets.timestamps import iso


def run_until_stopped(settings: Settings, console: Console, *, ui_port: int) -> None:
    """Start PostgreSQL, the code location, the daemon with sensors and schedules on, and the webserver; wait.

    Raises:
        ExchangeUnavailable: the exchange cannot be reached; nothing was started.
        Refused: a server ended by itself.
    """
    universe = load_universe(settings.universe, settings.universes)
    _greet_exchange(settings, console)
    for market in Market:
        asyncio.run(_require_listed(settings, market, universe))
    autostarted = settings.model_copy(update={"autostart": True})
    with _alone(settings, "another `ohlcv up`"), Platform(autostarted, ui_port) as platform:
        platform.start_postgres()
        platform.start_dagster()
        console.print(f"universe {universe.version} {universe.content_hash[:19]}… in region {settings.region}")
        console.print(f"bars stream into PostgreSQL under {settings.home}, days go to {settings.lake_url}")
        console.print(f"[bold]UI: {platform.ui_url}[/bold]   Ctrl-C stops everything", highlight=False)
        _wait(platform)
        console.print("stopping: running streams write what they hold")


def show_ui(settings: Settings, console: Console, *, ui_port: int, exchange: list[str]) -> None:
    """Start PostgreSQL, the exchange, the code location and the webserver over a home that is there already; wait.

    Args:
        settings: of the deployment.
        console: for people.
        ui_port: 0 chooses a free one.
        exchange: the command of its replay exchange, so that what is launched in the UI has somebody to ask.

    Raises:
        Refused: there is nothing under that home yet, or a server ended by itself.
    """
    if not (settings.home / "dagster").is_dir():
        raise Refused(f"there is no platform under {settings.home} yet", hint="make demo, or make up")
    with _alone(settings, "the UI or a demo"), Platform(settings, ui_port) as platform:
        platform.start_postgres()
        platform.start("replay-exchange", exchange)
        # With the daemon, so that what is launched in the UI runs; sensors and schedules stay off.
        platform.start_dagster()
        console.print(f"[bold]UI: {platform.ui_url}[/bold]   Ctrl-C stops it", highlight=False)
        _wait(platform)


@contextmanager
def _alone(settings: Settings, whom: str) -> Iterator[None]:
    """Nobody else starts servers over the same home meanwhile."""
    settings.home.mkdir(parents=True, exist_ok=True)
    lock = filelock.FileLock(home_lock(settings.home))
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout as error:
        raise Refused(f"{whom} is using {settings.home} already", hint="stop it first, or set OHLCV_HOME") from error
    with lock:
        yield


def home_lock(home: Path) -> Path:
    """The file that whoever runs servers over a home holds locked; beside it, for a demo removes the folder."""
    return home.with_name(f"{home.name}.lock")


async def _require_listed(settings: Settings, market: Market, universe: Universe) -> None:
    """Refuse a universe that is another exchange's, before anything is started; single symbols may have vanished."""
    async with open_exchange(market, settings, universe.listings, universe.symbols[market]):
        return  # opening it compares the symbols with the listing


def _greet_exchange(settings: Settings, console: Console) -> None:
    for market in Market:
        try:
            clock = measure_clock(market, settings.exchange_url)
        except ExchangeUnavailable as error:
            name = settings.exchange_url or "Binance"
            raise ExchangeUnavailable(
                f"{name} ({market}) cannot be reached from here: {error.message}",
                hint="check the network, set HTTPS_PROXY, or run `make demo`, which brings its own exchange",
            ) from error
        console.print(f"{market}: the exchange's clock says {iso(clock.now_ms())}")


def _wait(platform: Platform) -> None:
    """Wait for SIGINT or SIGTERM, or for a server to end by itself."""
    stopped = threading.Event()

    def stop(number: int, frame: FrameType | None) -> None:
        stopped.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)
    while not stopped.wait(1.0):
        platform.check()
