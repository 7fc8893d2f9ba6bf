"""`ohlcv up`, `ohlcv ui`, `ohlcv demo`: the platform from a terminal.

Lives here: the commands' options and what they print last. Does not: what they do (platform/).
"""

from __future__ import annotations

import signal
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING

import typer
from rich.console import Console

from ohlcv_assets.cli.asked import day_of
from ohlcv_assets.cli.completion import complete_market
from ohlcv_assets.errors import UsageError
from ohlcv_assets.instruments import Market
from ohlcv_assets.settings import read_settings
from ohlcv_assets.timestamps import DAY_MS, day_start_ms

if TYPE_CHECKING:
    from ohlcv_assets.platform.demo_table import DemoResult

_DEMO_HOME = "demo"


def up(port: int = typer.Option(3000, help="Port of the UI; 0 chooses a free one.")) -> None:
    """Run the platform against Binance until Ctrl-C: PostgreSQL, Dagster's daemon with sensors on, and the UI.

    With OHLCV_EXCHANGE_URL set, against that replay exchange instead.

    \b
    Examples:
      ohlcv up
      ohlcv up --port 3100

    Exit code: 0 ended by Ctrl-C; 2 a setting cannot be used; 3 exchange, database or lake are unavailable.
    """  # noqa: D301  the backspace keeps the lines of the examples apart
    from ohlcv_assets.platform.up import run_until_stopped

    run_until_stopped(read_settings(), Console(), ui_port=port)


def ui(port: int = typer.Option(3000, help="Port of the UI; 0 chooses a free one.")) -> None:
    """Open the UI over what `ohlcv demo` left, with its PostgreSQL and its exchange, until Ctrl-C.

    Another shell sees the same stores and exchange after `. .ohlcv/demo/env.sh`.

    \b
    Examples:
      ohlcv ui
      ohlcv ui --port 0

    Exit code: 0 ended by Ctrl-C; 3 there is no demo to open, or its PostgreSQL or exchange does not start.
    """  # noqa: D301  the backspace keeps the lines of the examples apart
    from ohlcv_assets.platform.demo_home import reopened_exchange, reopened_settings
    from ohlcv_assets.platform.up import show_ui

    home = read_settings().home / _DEMO_HOME
    show_ui(reopened_settings(home), Console(), ui_port=port, exchange=reopened_exchange(home))


def demo(
    data: Path | None = typer.Option(
        None, help="Parquet file of recorded bars; without it both markets are generated."
    ),
    market: str | None = typer.Option(
        None,
        help="spot or futures: of the recorded file, or the only one to generate.",
        autocompletion=complete_market,
    ),
    day: date = typer.Option(
        "2025-06-01", parser=day_of, metavar="DAY", help="The UTC day that goes through the platform."
    ),
    symbols: int = typer.Option(20, min=1, max=500, help="Symbols a market, when generated."),
    seed: int = typer.Option(7, help="Seed of the generated bars."),
    speed: float = typer.Option(60.0, min=1, max=600, help="Exchange seconds per second while the hour is streamed."),
) -> None:
    """Take one day of bars through the whole platform, offline, and print how well both captures match.

    \b
    Examples:
      ohlcv demo
      ohlcv demo --data bars.parquet --market futures --day 2025-06-01

    Exit code: 0 both captures are the same; 1 they are not; 2 the question cannot be meant; 3 a server does not start.
    """  # noqa: D301  the backspace keeps the lines of the examples apart
    from ohlcv_assets.platform.demo import Demo, DemoOptions

    _check_recording(data, day)
    chosen = Market.parse(market) if market else (Market.FUTURES if data else None)
    options = DemoOptions(day, data, chosen, symbols, seed, speed)
    # Whoever ends us politely gets the same orderly end as Ctrl-C.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    console = Console()
    console.print(f"[bold]ohlcv demo[/bold]: {day}, {', '.join(options.markets)}", highlight=False)
    result = Demo(options, read_settings().home / _DEMO_HOME, console).run()
    _show_table(result, console)
    for line in (
        f"One bar was then corrupted on purpose: {result.corrupted}",
        f"The data are in {result.location}",
        f"{sum(result.seconds.values()):.0f} s in all. To look at it in the UI: make ui",
    ):
        console.print(line, highlight=False, soft_wrap=True)
    if not result.matches:
        for found in result.markets:
            console.print(f"[red]{found.market}: {found.complete}[/red]", highlight=False, soft_wrap=True)
        console.print("every missing minute is in missing.parquet under lake/.../qa/daily_qa", highlight=False)
        raise typer.Exit(1)


def _show_table(result: DemoResult, console: Console) -> None:
    """Drawn on a terminal; elsewhere lines, as of every command."""
    from ohlcv_assets.cli.universe_tables import show_table

    if console.is_terminal:
        console.print(result.table())
        return
    print(result.title)
    markets = [found.market.value for found in result.markets]
    show_table(("", *markets), result.rows(), right=markets)


def _check_recording(data: Path | None, day: date) -> None:
    """Refuse a recording that does not hold the whole day, before anything is started."""
    if data is None:
        return
    if not data.is_file():
        raise UsageError(f"{data} is no file", hint="give the path of a Parquet file of bars")
    from ohlcv_assets.replay.truth import held_interval

    held = held_interval(data)
    start_ms = day_start_ms(day)
    if held.start_ms > start_ms or held.end_ms < start_ms + DAY_MS:
        raise UsageError(
            f"{data.name} holds {held}, not the whole of {day}", hint="choose a whole day that it holds, DAY=..."
        )
