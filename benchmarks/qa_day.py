"""`make bench-qa-day`: the daily QA of 400 symbols end to end, over a real PostgreSQL and a real lake; one Markdown table.

Lives here: a day of generated bars in both stores, and the steps of its QA timed one after the other, as the asset takes them. Does
not: the steps beyond loading, one by one (qa.py), or Dagster's own start of a run. Exit code 1 when the QA does not find what was planted.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import typer

from benchmarks.common import machine
from benchmarks.qa import changed, day_of_bars
from ohlcv_assets.bars import Channel
from ohlcv_assets.instruments import Market, Universe, release_universe
from ohlcv_assets.quality.inspection import Inspection, inspect
from ohlcv_assets.quality.ledger_day import keep_ledger, ledger_of_day
from ohlcv_assets.quality.sides import DaySide
from ohlcv_assets.settings import Settings
from ohlcv_assets.storage.database import Database
from ohlcv_assets.storage.lake import Lake, Signature
from ohlcv_assets.storage.local_postgres import LocalPostgres
from ohlcv_assets.timestamps import Interval

_DAY, _PLANTED = date(2025, 6, 1), 44


def main(symbols: int = 400) -> None:
    """Measure, print the table, and judge what was found."""
    with tempfile.TemporaryDirectory(dir="/var/tmp", prefix="ohlcv-bench-") as folder:
        home = Path(folder)
        home.chmod(0o755)
        try:
            rows, found = _measured(Settings(home=home, universe="v0.1", universes=home / "universes"), symbols)
        finally:
            LocalPostgres(home).down()
    typer.echo("| step | seconds |\n|---|---:|")
    for name, taken_s in rows:
        typer.echo(f"| {name} | {taken_s:.2f} |")
    typer.echo(
        f"\n{found.verdict.match.union:,} bars, {found.verdict.match.differing} differ, {_PLANTED} planted; {', '.join(machine())}"
    )
    sys.exit(found.verdict.match.differing != _PLANTED)


def _measured(settings: Settings, symbols: int) -> tuple[list[tuple[str, float]], Inspection]:
    bars = day_of_bars(symbols)
    universe = Universe.of("v0.1", {Market.FUTURES: bars["symbol"].unique().to_list()})
    release_universe(universe, settings.universes)
    lake, rows = Lake(settings.lake_url), []
    side = DaySide(lake, Market.FUTURES, universe, _DAY)

    def timed(name: str, action: Callable[[], Any]) -> Any:
        began_s = time.monotonic()
        result = action()
        rows.append((name, time.monotonic() - began_s))
        return result

    with Database.open(settings) as database:
        timed("store a day in PostgreSQL", lambda: database.record(bars, channel=Channel.REST, run_id="bench"))
        fetched = changed(bars, _PLANTED)
        timed(
            "store a day in the lake",
            lambda: lake.write_day(Signature.daily(Market.FUTURES, universe), _DAY, fetched),
        )
        timed("import Great Expectations, once a process", _import)
        began_s = time.monotonic()
        held = timed(
            "QA: read the lake's day", lambda: lake.read_day(Signature.daily(Market.FUTURES, universe), _DAY)
        )
        look = lambda: inspect(database, side, held, Interval.of_day(_DAY), run_id="bench", expectations=True)  # noqa: E731
        found = timed("QA: read PostgreSQL, compare, both soundnesses, reports, files", look)
        rows.append(("**QA of the day, end to end**", time.monotonic() - began_s))
        book = timed(
            "ledger: read both, every minute's state",
            lambda: ledger_of_day(database, lake, universe, Market.FUTURES, _DAY),
        )
        timed("ledger: kept in both stores", lambda: keep_ledger(database, lake, universe, book, run_id="bench"))
    return rows, found


def _import() -> None:
    import great_expectations  # noqa: F401


if __name__ == "__main__":
    typer.run(main)
