"""`ohlcv up`: the platform against the exchange until Ctrl-C. `ohlcv ui`: the webserver alone, over what is there.

Lives here: what a person sees while the platform runs. Does not: how its servers are started (servers.py).
"""

from __future__ import annotations

import signal
import threading
from types import FrameType

from rich.console import Console

from ohlcv_assets.errors import ExchangeUnavailable, Refused
from ohlcv_assets.exchange.server_time import measure_clock
from ohlcv_assets.instruments import Market, load_universe
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
    with Platform(settings.model_copy(update={"autostart": True}), ui_port) as platform:
        platform.start_postgres()
        platform.start_dagster()
        console.print(f"universe {universe.version} {universe.content_hash[:19]}… in region {settings.region}")
        console.print(f"bars stream into PostgreSQL under {settings.home}, days go to {settings.lake_url}")
        console.print(f"[bold]UI: {platform.ui_url}[/bold]   Ctrl-C stops everything", highlight=False)
        _wait(platform)
        console.print("stopping: running streams write what they hold")


def show_ui(settings: Settings, console: Console, *, ui_port: int) -> None:
    """Start PostgreSQL, the code location and the webserver over a home that is there already; wait.

    Raises:
        Refused: there is nothing under that home yet.
    """
    if not (settings.home / "dagster").is_dir():
        raise Refused(f"there is no platform under {settings.home} yet", hint="make demo, or make up")
    with Platform(settings, ui_port) as platform:
        platform.start_postgres()
        platform.start_dagster(daemon=False)
        console.print(f"[bold]UI: {platform.ui_url}[/bold]   Ctrl-C stops it", highlight=False)
        _wait(platform)


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
        for server in platform.servers:
            if not server.alive:
                raise Refused(f"{server.name} ended by itself:\n{server.log_tail()}", hint=f"read {server.log}")
