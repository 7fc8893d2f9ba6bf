"""`ohlcv qa`: compare a day or an hour without Dagster, by the same code, and say what is not right.

Lives here: options, what is shown, and exit codes. Does not: comparing and publishing (quality/inspection.py), or the checks
in the UI, which are as they were until Dagster's own QA of that day or hour runs.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ohlcv_assets.cli.asked import DayOption, JsonOption, MarketOption, UniverseOption
from ohlcv_assets.settings import settings

if TYPE_CHECKING:
    import polars as pl

    from ohlcv_assets.instruments import Market, Universe
    from ohlcv_assets.quality.inspection import Inspection
    from ohlcv_assets.quality.sides import DaySide, HourSide
    from ohlcv_assets.storage.lake import Lake

app = typer.Typer(help="Compare both captures of a day or an hour, bar for bar.", no_args_is_help=True)

_Report = Annotated[bool, typer.Option("--report", help="Print only where the HTML report is.")]
_Expectations = Annotated[
    bool, typer.Option("--expectations", help="Also ask Great Expectations (seconds), and keep its page.")
]
_Hour = Annotated[str, typer.Option(help="UTC hour, such as 2025-06-01T05.", show_default=False)]

_SHOWN, _TOLD = 10, 1_000


@app.command()
def daily(
    market: MarketOption,
    day: DayOption,
    universe: UniverseOption = None,
    expectations: _Expectations = False,
    report: _Report = False,
    as_json: JsonOption = False,
) -> None:
    """Compare what was streamed on a UTC day with the day's file in the lake.

    \b
    Examples:
      ohlcv qa daily --market spot --day 2025-06-01
      xdg-open "$(ohlcv qa daily --market spot --day 2025-06-01 --report)"
      ohlcv qa daily --market spot --day 2025-06-01 --json | jq .diagnosis

    Exit code: 0 green, 1 red, or the day was never downloaded; 2 the question cannot be meant; 3 database or lake are
    unavailable.
    """  # noqa: D301  the backspace keeps the lines of the examples apart
    from ohlcv_assets.cli.asked import day_of
    from ohlcv_assets.quality.sides import DaySide

    chosen = day_of(day)
    _inspected(
        market,
        universe,
        lambda lake, of, released: DaySide(lake, of, released, chosen),
        expectations=expectations,
        report=report,
        as_json=as_json,
        repair=f"ohlcv repair --market {market} --day {chosen}",
    )


@app.command()
def recent(
    market: MarketOption,
    hour: _Hour,
    universe: UniverseOption = None,
    expectations: _Expectations = False,
    report: _Report = False,
    as_json: JsonOption = False,
) -> None:
    """Compare what was streamed in an hour with its ten-minute windows, as far as they were fetched.

    \b
    Examples:
      ohlcv qa recent --market futures --hour 2025-06-01T05
      ohlcv qa recent --market futures --hour 2025-06-01T05 --json | jq .missing_ranges

    Exit code: 0 green, 1 red, or no window was fetched yet; 2 the question cannot be meant; 3 database or lake are
    unavailable.
    """  # noqa: D301  the backspace keeps the lines of the examples apart
    from ohlcv_assets.cli.asked import hour_of
    from ohlcv_assets.quality.sides import HourSide
    from ohlcv_assets.timestamps import from_ms

    chosen = hour_of(hour)
    start = from_ms(chosen.start_ms)
    _inspected(
        market,
        universe,
        lambda lake, of, released: HourSide(lake, of, released, chosen),
        expectations=expectations,
        report=report,
        as_json=as_json,
        repair=f"ohlcv repair --market {market} --day {start:%Y-%m-%d} --hour {start.hour}",
    )


def _inspected(
    market: str,
    version: str | None,
    side: _Side,
    *,
    expectations: bool,
    report: bool,
    as_json: bool,
    repair: str,
) -> None:
    """Compare, show, and exit as it deserves."""
    from ohlcv_assets.cli.asked import universe_of
    from ohlcv_assets.cli.stores import open_database, open_lake
    from ohlcv_assets.clock import utc_now
    from ohlcv_assets.instruments import Market
    from ohlcv_assets.quality.inspection import inspect

    configured, chosen = settings(), Market.parse(market)
    universe = universe_of(configured, version, chosen)
    of_lake = side(open_lake(configured), chosen, universe)
    fetched, interval = of_lake.read()  # what was never fetched needs no database to say so
    run_id = f"qa-{os.getpid()}-{utc_now():%Y%m%dT%H%M%S}"
    with open_database(configured) as database:
        found = inspect(database, of_lake, fetched, interval, run_id=run_id, expectations=expectations)
    if report:
        print(found.stored.pages["report"])
    elif as_json:
        _tell(found)
    else:
        _show(found, repair)
    raise typer.Exit(0 if found.is_green else 1)


def _tell(found: Inspection) -> None:
    from ohlcv_assets.cli.asked import print_json

    differing, gaps = found.verdict.match.differences, found.gaps()
    print_json(
        {
            **found.facts(),
            "first_differences": [_difference(row) for row in differing.head(_SHOWN).iter_rows(named=True)],
            "missing_ranges": [_gap(row) for row in gaps.head(_TOLD).iter_rows(named=True)],
            "missing_ranges_left_out": max(0, gaps.height - _TOLD),
        }
    )


def _show(found: Inspection, repair: str) -> None:
    from rich.console import Console

    from ohlcv_assets.quality import sentences

    verdict, console = found.verdict, Console(soft_wrap=True, highlight=False)
    word = "[green]green[/]" if found.is_green else "[red]red[/]"
    console.print(f"{word}  {verdict.market} {verdict.interval}, {len(verdict.symbols)} symbols")
    print(f"{sentences.of_match(verdict.match)} ({verdict.match.match_pct:.4f} %)")
    _show_counts(found)
    _show_differences(verdict.match.differences)
    _show_gaps(found.gaps())
    for name, place in {**found.stored.pages, "differences": found.stored.differences}.items():
        print(f"{name}: {place}")
    if not found.is_green:
        print(f"try: {repair}")


def _show_counts(found: Inspection) -> None:
    from ohlcv_assets.cli.universe_tables import show_table
    from ohlcv_assets.quality import sentences
    from ohlcv_assets.quality.diagnosis import MEANINGS, Kind

    verdict = found.verdict
    sides = (
        ("streamed", verdict.streamed_coverage, verdict.streamed_soundness),
        ("fetched", verdict.fetched_coverage, verdict.fetched_soundness),
    )
    rows = [
        (side, *(f"{n:,}" for n in (has.expected, has.present, has.missing.height, has.duplicate, has.off_grid + has.outside)), ", ".join(sound.broken_names) or "sound")
        for side, has, sound in sides
    ]  # fmt: skip
    show_table(("side", "expected", "there", "missing", "twice", "strange", "invariants"), rows)
    if found.explained.height:
        print(f"could not be: {sentences.of_explained(found.explained)}")
    kinds = found.diagnosis()
    if kinds:
        show_table(
            ("looks like", "bars", "which means"), [(k, f"{n:,}", MEANINGS[Kind(k)]) for k, n in kinds.items()]
        )


def _show_differences(differences: pl.DataFrame) -> None:
    from ohlcv_assets.cli.universe_tables import show_table

    if differences.is_empty():
        return
    shown = [_difference(row) for row in differences.head(_SHOWN).iter_rows(named=True)]
    show_table(tuple(shown[0]), [["" if value is None else str(value) for value in row.values()] for row in shown])
    if differences.height > _SHOWN:
        print(f"and {differences.height - _SHOWN:,} more differences")


def _show_gaps(gaps: pl.DataFrame) -> None:
    from ohlcv_assets.cli.universe_tables import show_table

    if gaps.is_empty():
        return
    shown = [_gap(row) for row in gaps.head(_SHOWN).iter_rows(named=True)]
    show_table(("missing", *list(shown[0])[1:]), [[str(value) for value in row.values()] for row in shown])
    if gaps.height > _SHOWN:
        print(f"and {gaps.height - _SHOWN:,} more missing ranges")


def _difference(row: dict[str, Any]) -> dict[str, Any]:
    from ohlcv_assets.quality.sentences import KINDS
    from ohlcv_assets.timestamps import iso

    when = None if row["timestamp"] is None else iso(row["timestamp"])
    what = {"symbol": row["symbol"], "timestamp": when, "kind": KINDS[row["kind"]], "column": row["column"]}
    return {**what, "streamed": row["left"], "fetched": row["right"]}


def _gap(row: dict[str, Any]) -> dict[str, Any]:
    from ohlcv_assets.timestamps import iso

    return {**row, "start": iso(row["start"]), "end": iso(row["end"])}


if TYPE_CHECKING:
    from collections.abc import Callable

    _Side = Callable[[Lake, Market, Universe], DaySide | HourSide]
