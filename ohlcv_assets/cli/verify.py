"""`ohlcv verify`: does the exchange still say of old days what the lake holds?

Lives here: the command's options, what it shows, and its exit code. Does not: the verification (quality/history.py).
"""

from __future__ import annotations

import asyncio
import json
import os
import re
from contextlib import ExitStack, closing
from dataclasses import dataclass
from datetime import date, timedelta
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ohlcv_assets.cli.asked import day_of
from ohlcv_assets.cli.completion import complete_market
from ohlcv_assets.settings import Settings, settings

if TYPE_CHECKING:
    from rich.console import Console

    from ohlcv_assets.clock import Clock
    from ohlcv_assets.instruments import Market
    from ohlcv_assets.quality.history import OnProgress
    from ohlcv_assets.quality.history_report import Verification
    from ohlcv_assets.storage.quality_store import QualityStore

_Days = Annotated[
    list[date] | None,
    typer.Option(
        "--day", parser=day_of, metavar="DAY", help="Only this UTC day; may be given again.", show_default=False
    ),
]
_SHOWN_CHANGES = 20


@dataclass(frozen=True)
class _Wish:
    """What was asked for."""

    markets: list[Market]
    since: str
    days: list[date]
    accept: bool


def verify(
    since: Annotated[str, typer.Option(help="How far back: 30d, or a first UTC day like 2025-06-01.")] = "30d",
    market: Annotated[
        str | None,
        typer.Option(help="spot or futures; default: both.", show_default=False, autocompletion=complete_market),
    ] = None,
    day: _Days = None,
    accept: Annotated[
        bool, typer.Option("--accept", help="Replace also days of which bars vanished, and damaged files.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a day and one a market.")] = False,
) -> None:
    """Fetch old days again and compare them with the lake, bar for bar.

    A day that the exchange changed gets a new version in the lake; the old one is kept, and the differences are listed.

    \b
    Examples:
      ohlcv verify --since 7d
      ohlcv verify --market spot --day 2025-06-01 --day 2025-06-02 --json
      ohlcv verify --market spot --day 2025-06-01 --accept

    Exit code: 0 nothing changed; 1 something did, or a --day is not in the lake; 2 the question cannot be meant; 3 exchange or lake
    are unavailable.
    """  # noqa: D301  the backspace keeps the lines of the examples apart
    from rich.console import Console

    wish = _Wish(_markets(settings(), market), since, list(day or ()), accept)
    _first_day(wish.since, date.max)  # refuses what cannot be meant before anything is opened
    console = Console(stderr=True)
    with ExitStack() as opened:
        store = _findings(settings(), opened, console)
        found = [_verified(settings(), wish, chosen, store, console, as_json=as_json) for chosen in wish.markets]
    # A day that somebody names and that is not there was not verified; of many days some may not be there yet.
    if any(each.findings or (wish.days and each.skipped) for each in found):
        raise typer.Exit(1)
    if any(each.unavailable for each in found):
        raise typer.Exit(3)


def _markets(configured: Settings, market: str | None) -> list[Market]:
    """The market that is meant; by default each of which the universe has symbols."""
    from ohlcv_assets.cli.asked import universe_of
    from ohlcv_assets.instruments import Market, load_universe

    if market is None:
        universe = load_universe(configured.universe, configured.universes)
        return [each for each in Market if universe.symbols[each]]
    chosen = Market.parse(market)
    universe_of(configured, None, chosen)
    return [chosen]


def _verified(
    configured: Settings,
    wish: _Wish,
    market: Market,
    store: QualityStore | None,
    console: Console,
    *,
    as_json: bool,
) -> Verification:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    # Where nobody looks, nothing is drawn; a drawn line would stand between the lines of JSON.
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(f"{market}", total=None)

        def progress(day: date, settled: int, asked: int) -> None:
            bar.update(task, description=f"{market} {day}", completed=settled, total=asked)

        found = asyncio.run(_verify(configured, wish, market, store, progress))
    _show(found, console, as_json=as_json)
    return found


async def _verify(
    configured: Settings, wish: _Wish, market: Market, store: QualityStore | None, progress: OnProgress
) -> Verification:
    from ohlcv_assets.cli.stores import open_lake
    from ohlcv_assets.exchange.binance import open_exchange
    from ohlcv_assets.instruments import load_universe
    from ohlcv_assets.quality.history import verify as verify_days

    universe = load_universe(configured.universe, configured.universes)
    async with open_exchange(market, configured, universe.listings, universe.symbols[market]) as exchange:
        return await verify_days(
            exchange,
            open_lake(configured),
            universe,
            wish.days or _days_since(wish.since, exchange.clock),
            run_id=f"verify-{os.getpid()}-{exchange.clock.now_ms()}",
            findings=store,
            accept=wish.accept,
            on_progress=progress,
        )


def _findings(configured: Settings, opened: ExitStack, console: Console) -> QualityStore | None:
    """The store of findings; None where there is no PostgreSQL: the lake keeps them as well."""
    from ohlcv_assets.cli.stores import open_database
    from ohlcv_assets.errors import DatabaseUnavailable, Refused
    from ohlcv_assets.storage.quality_store import QualityStore

    try:
        return QualityStore(opened.enter_context(closing(open_database(configured))))
    except (DatabaseUnavailable, Refused) as error:
        console.print(f"findings are kept in the lake only: {error.message}", highlight=False, markup=False)
        return None


def _days_since(since: str, clock: Clock) -> list[date]:
    """The finished UTC days of the exchange's clock from `since` on."""
    from ohlcv_assets.errors import UsageError
    from ohlcv_assets.quality.history import last_days
    from ohlcv_assets.timestamps import iso

    (yesterday,) = last_days(clock, 1)
    first = _first_day(since, yesterday)
    if first > yesterday:
        raise UsageError(
            f"{first} is not over: the exchange's clock says {iso(clock.now_ms())}",
            hint=f"choose {yesterday}, the last day that is over, or an earlier one",
        )
    return last_days(clock, (yesterday - first).days + 1)


def _first_day(since: str, yesterday: date) -> date:
    from ohlcv_assets.errors import UsageError
    from ohlcv_assets.timestamps import parse_day

    counted = re.fullmatch(r"([1-9][0-9]{0,4})d", since)
    if counted:
        return yesterday - timedelta(days=int(counted[1]) - 1)
    try:
        return parse_day(since)
    except UsageError as error:
        raise UsageError(
            f"--since {since} says no day", hint="write --since 30d, or a UTC day: --since 2025-06-01"
        ) from error


def _show(found: Verification, console: Console, *, as_json: bool) -> None:
    if as_json:
        for day in found.days:
            print(json.dumps({"market": found.market, "outcome": day.outcome, **day.detail()}))
        print(json.dumps({"market": found.market, **found.summary(), "sentence": found.sentence()}))
        return
    print(f"{found.market}: {found.sentence()}")
    changes = found.changes()
    for row in changes.head(_SHOWN_CHANGES).iter_rows(named=True):
        print(f"  {_told(row)}")
    if changes.height > _SHOWN_CHANGES:
        print(f"  and {changes.height - _SHOWN_CHANGES:,} more differences")
    for day in found.findings:
        if day.differences:
            print(f"  {day.day}: every difference is in {day.differences}")
    if any(day.vanished and not day.replaced_key for day in found.findings):
        print("  to take over that bars vanished: ohlcv verify --day DAY --accept")


def _told(row: dict[str, Any]) -> str:
    from ohlcv_assets.timestamps import iso

    bar = f"{row['symbol']} {iso(row['timestamp'])}"
    if row["column"] is None:
        return f"{bar}: {'vanished' if row['before'] else 'appeared'}"
    return f"{bar}: {row['column']} was {row['before']!r}, is {row['after']!r}"
