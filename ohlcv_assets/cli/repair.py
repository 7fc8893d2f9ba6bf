"""`ohlcv repair`: repair a day or an hour without Dagster, by the same function, or show what was repaired.

Lives here: the command's options, what it prints, and its exit code. Does not: repairing (quality/repair.py), or comparing
again in the UI: Dagster's check of that day or hour is as it was until its QA runs again.
"""

from __future__ import annotations

import asyncio
import json
import os
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ohlcv_assets.cli.completion import complete_market
from ohlcv_assets.settings import Settings, settings

if TYPE_CHECKING:
    import polars as pl

    from ohlcv_assets.instruments import Market, Universe
    from ohlcv_assets.quality.repair import Limits, RepairReport
    from ohlcv_assets.quality.sides import FetchedSide
    from ohlcv_assets.storage.database import Database
    from ohlcv_assets.timestamps import Interval

_Hour = Annotated[
    int | None,
    typer.Option(min=0, max=23, help="Only this hour, against the windows of recent_bars.", show_default=False),
]
_SHOWN = 50


def repair(
    market: Annotated[str, typer.Option(help="spot or futures.", autocompletion=complete_market)],
    day: Annotated[str, typer.Option(help="UTC day, such as 2025-06-01.")],
    hour: _Hour = None,
    confirm: Annotated[
        bool, typer.Option("--confirm", help="Repair more bars than OHLCV_REPAIR_LIMIT_BARS.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Decide, and change nothing.")] = False,
    listed: Annotated[bool, typer.Option("--list", help="Show what was decided so far, and fetch nothing.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """Fetch a third time what differs between PostgreSQL and the lake, and repair what this decides.

    \b
    Examples:
      ohlcv repair --market spot --day 2025-06-01 --dry-run
      ohlcv repair --market futures --day 2025-06-01 --hour 5
      ohlcv repair --market spot --day 2025-06-01 --list --json

    Exit code: 0 everything is the same on both sides now, 1 something is undecided or needs --confirm, 2 the question
    cannot be meant, 3 exchange, database or lake are unavailable.
    """  # noqa: D301  the backspace keeps the lines of the examples apart
    from ohlcv_assets.instruments import Market
    from ohlcv_assets.quality.repair import Limits

    configured = settings()
    chosen, interval = Market.parse(market), _interval(day, hour)
    if listed:
        _show_trail(configured, chosen, interval, as_json=as_json)
        return
    limits = Limits(configured.repair_limit_bars, confirm=confirm, dry_run=dry_run)
    report = asyncio.run(_repair(configured, chosen, interval, limits, hourly=hour is not None))
    _show(report, dry_run=dry_run, as_json=as_json)
    raise typer.Exit(0 if report.is_settled else 1)


def _interval(day: str, hour: int | None) -> Interval:
    from ohlcv_assets.cli.asked import day_of
    from ohlcv_assets.timestamps import HOUR_MS, Interval

    whole = Interval.of_day(day_of(day))
    return whole if hour is None else Interval.of_hour(whole.start_ms + hour * HOUR_MS)


async def _repair(
    configured: Settings, market: Market, interval: Interval, limits: Limits, *, hourly: bool
) -> RepairReport:
    from ohlcv_assets.cli.asked import universe_of
    from ohlcv_assets.cli.stores import open_database
    from ohlcv_assets.exchange.binance import open_exchange
    from ohlcv_assets.quality.repair import newest
    from ohlcv_assets.quality.repair import repair as made

    universe = universe_of(configured, None, market)
    side = _side(configured, market, universe, interval, hourly=hourly)
    with await asyncio.to_thread(open_database, configured) as database:
        # Before the exchange is asked: a day that was never downloaded needs no exchange to say so.
        verdict = await asyncio.to_thread(newest, database, side, universe, market)
        async with open_exchange(market, configured, universe.listings, universe.symbols[market]) as exchange:
            run_id = f"repair-{os.getpid()}-{exchange.clock.now_ms()}"
            return await made(exchange, database, side, verdict, limits=limits, run_id=run_id)


def _side(
    configured: Settings, market: Market, universe: Universe, interval: Interval, *, hourly: bool
) -> FetchedSide:
    from ohlcv_assets.cli.stores import open_lake
    from ohlcv_assets.quality.sides import DaySide, HourSide
    from ohlcv_assets.timestamps import from_ms

    lake = open_lake(configured)
    if hourly:
        return HourSide(lake, market, universe, interval)
    return DaySide(lake, market, universe, from_ms(interval.start_ms).date())


def _show(report: RepairReport, *, dry_run: bool, as_json: bool) -> None:
    rows = report.decisions.to_dicts()
    if as_json:
        print(json.dumps({**report.summary(), "dry_run": dry_run, "decisions": [_unpacked(row) for row in rows]}))
        return
    done = "would be repaired" if dry_run else "repaired"
    print(
        f"{report.market} {report.partition}: {report.concerned:,} bars in doubt, {report.repaired:,} {done}, "
        f"{report.undecided:,} undecided"
    )
    if report.needs_confirmation:
        print(rows[0]["reason"])
        return
    _print_lines(report.decisions)
    if report.repaired and not dry_run and len(report.partition) == len("2025-06-01"):
        # What was repaired is not what the ledger has compared: until it is made anew verified reads refuse it.
        print(f"try: ohlcv ledger --market {report.market} --day {report.partition} --record")


def _show_trail(configured: Settings, market: Market, interval: Interval, *, as_json: bool) -> None:
    from ohlcv_assets.cli.stores import open_database

    with open_database(configured) as database:
        trail = _trail(database, market, interval)
    if as_json:
        print(json.dumps([_unpacked(row) for row in trail.to_dicts()], default=str))
    elif trail.is_empty():
        print(f"{market} {interval}: nothing was ever repaired or left undecided")
    else:
        _print_lines(trail)


def _trail(database: Database, market: Market, interval: Interval) -> pl.DataFrame:
    from ohlcv_assets.storage.quality_store import QualityStore

    return QualityStore(database).repairs(market, interval)


def _unpacked(row: dict[str, Any]) -> dict[str, Any]:
    """A row whose JSON columns are values again."""
    packed = ("sources", "before", "after")
    return {name: json.loads(value) if name in packed and value else value for name, value in row.items()}


def _print_lines(decisions: pl.DataFrame) -> None:
    """A line a decision: whole, for a table of this width is cut on a terminal of usual width."""
    from ohlcv_assets.timestamps import iso

    for row in decisions.head(_SHOWN).iter_rows(named=True):
        known = row.get("knowledge_timestamp")
        by = f" ({known:%Y-%m-%d %H:%M:%S}Z by {row['run_id']})" if known else ""
        print(f"{row['symbol']} {iso(row['timestamp'])} {row['decision']}: {row['reason']}{by}")
    if decisions.height > _SHOWN:
        print(f"and {decisions.height - _SHOWN:,} more: --json shows them all, with every value")
