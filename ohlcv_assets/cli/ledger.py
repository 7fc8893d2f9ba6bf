"""`ohlcv ledger`: in which state every expected minute of a day is, and the cause of every gap.

Lives here: options, what is shown, and exit codes. Does not: the states (quality/ledger.py), or recording them, which is Dagster's.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ohlcv_assets.cli.asked import DayOption, JsonOption, MarketOption, UniverseOption
from ohlcv_assets.settings import Settings, settings

if TYPE_CHECKING:
    from datetime import date

    import polars as pl

    from ohlcv_assets.instruments import Market, Universe
    from ohlcv_assets.quality.ledger import Ledger
    from ohlcv_assets.storage.database import Database
    from ohlcv_assets.storage.lake import Lake

_Now = Annotated[bool, typer.Option("--now", help="Work it out anew from both captures, and store nothing.")]

_SHOWN = 30


@dataclass(frozen=True)
class _Answer:
    """A ledger, and whether it is the one on record."""

    ledger: Ledger
    is_recorded: bool


def ledger(
    market: MarketOption,
    day: DayOption,
    universe: UniverseOption = None,
    now: _Now = False,
    as_json: JsonOption = False,
) -> None:
    """Say in which state every expected minute of a UTC day is; the counts sum to symbols times minutes.

    What Dagster recorded last is shown; of a day that it never recorded, and with --now, the ledger is worked out anew.

    \b
    Examples:
      ohlcv ledger --market spot --day 2025-06-01
      ohlcv ledger --market futures --day 2025-06-01 --json | jq '.counts'

    Exit code: 0 every minute is confirmed or explained; 1 a minute is missing, differs or is on one side only, or the day was
    never downloaded; 2 the question cannot be meant; 3 database or lake are unavailable.
    """  # noqa: D301  the backspace keeps the lines of the examples apart
    from ohlcv_assets.cli.asked import day_of
    from ohlcv_assets.instruments import Market, load_universe

    configured, chosen, wanted = settings(), Market.parse(market), day_of(day)
    released = load_universe(universe or configured.universe, configured.universes)
    answer = _answer(configured, chosen, wanted, released, now=now)
    if as_json:
        _tell(answer)
    else:
        _show(answer)
    raise typer.Exit(1 if answer.ledger.unexplained() else 0)


def _answer(configured: Settings, market: Market, day: date, universe: Universe, *, now: bool) -> _Answer:
    from ohlcv_assets.storage.database import Database
    from ohlcv_assets.storage.lake import Lake, Signature

    stored = None if now else _recorded(configured, market, day, universe)
    if stored is not None:
        return _Answer(stored, is_recorded=True)
    # What was never downloaded needs no database to say so.
    lake = Lake(configured.lake_url)
    fetched = lake.read_day(Signature.daily(market, universe), day)
    with Database.open(configured) as database:
        return _Answer(_worked_out(database, lake, fetched, universe, market, day), is_recorded=False)


def _recorded(configured: Settings, market: Market, day: date, universe: Universe) -> Ledger | None:
    """The newest ledger on record that speaks of the whole day; None where there is none."""
    import polars as pl

    from ohlcv_assets.client import OhlcvClient
    from ohlcv_assets.quality.ledger import Ledger
    from ohlcv_assets.timestamps import DAY_MS, Interval, iso

    interval = Interval.of_day(day)
    with OhlcvClient(configured.model_copy(update={"universe": universe.version})) as client:
        told = client.ledger(market, iso(interval.start_ms), iso(interval.end_ms))
    ranges = told.with_columns(pl.col("start", "end").dt.epoch("ms"))
    symbols = tuple(ranges["symbol"].unique().sort())
    if ranges.is_empty() or (ranges["end"] - ranges["start"]).sum() < len(symbols) * DAY_MS:
        return None
    # What is on record are ranges: trades outside of a listing were told when they were found.
    untold = pl.DataFrame(schema={"symbol": pl.String, "timestamp": pl.Int64})
    return Ledger(market, interval, symbols, ranges, untold)


def _worked_out(
    database: Database, lake: Lake, fetched: pl.DataFrame, universe: Universe, market: Market, day: date
) -> Ledger:
    from ohlcv_assets.quality.evidence import evidence_of_day
    from ohlcv_assets.quality.ledger import ledger
    from ohlcv_assets.timestamps import Interval

    interval, symbols = Interval.of_day(day), universe.symbols[market]
    streamed = database.read(market, interval, symbols=symbols)
    evidence = evidence_of_day(database, lake, universe, market, day)
    return ledger(streamed, fetched, symbols, market, interval, evidence)


def _tell(answer: _Answer) -> None:
    from ohlcv_assets.cli.asked import print_json

    found = answer.ledger
    print_json(
        {
            "market": found.market,
            "interval": str(found.interval),
            "is_recorded": answer.is_recorded,
            "symbols": len(found.symbols),
            "bars_expected": found.expected,
            "bars_unexplained": found.unexplained(),
            "counts": {state.value: bars for state, bars in found.counts().items()},
            "ranges": [_range(row) for row in found.gaps().iter_rows(named=True)],
        }
    )


def _range(row: dict[str, Any]) -> dict[str, Any]:
    """A range as people read it: its times as text, how many minutes it has, its proof unpacked."""
    from ohlcv_assets.timestamps import MINUTE_MS, iso

    return {
        "symbol": row["symbol"],
        "start": iso(row["start"]),
        "end": iso(row["end"]),
        "minutes": (row["end"] - row["start"]) // MINUTE_MS,
        "state": row["state"],
        "cause": row["cause"],
        "proof": json.loads(row["proof"]) if row["proof"] else None,
    }


def _show(answer: _Answer) -> None:
    from ohlcv_assets.cli.universe_tables import show_table

    found = answer.ledger
    origin = "as recorded last" if answer.is_recorded else "worked out now, not recorded"
    print(f"{found.market} {found.interval}, {len(found.symbols)} symbols, {origin}")
    counts = [
        (state.value, f"{bars:,}", _share(bars, found.expected)) for state, bars in found.counts().items() if bars
    ]
    show_table(("state", "bars", "share"), [*counts, ("all", f"{found.expected:,}", "")])
    gaps = found.gaps()
    if not gaps.is_empty():
        rows = [_range(row) for row in gaps.head(_SHOWN).iter_rows(named=True)]
        show_table(tuple(rows[0])[:-1], [[str(v or "") for v in list(row.values())[:-1]] for row in rows])
    if gaps.height > _SHOWN:
        print(f"and {gaps.height - _SHOWN:,} more ranges: --json has them all, each with its proof")
    if found.unexplained():
        print(f"try: ohlcv repair --market {found.market} --day {str(found.interval)[1:11]}")


def _share(bars: int, expected: int) -> str:
    return f"{100 * bars / expected:.4f} %"
