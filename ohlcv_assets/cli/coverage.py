"""`ohlcv coverage`: what there is of the expected bars, symbol by symbol and day by day.

Lives here: options, exit codes, and the table. Does not: counting (client/), the sums and the JSON (coverage_facts.py), the heat map
(coverage_map.py), or the HTML page (coverage_page.py).
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ohlcv_assets.cli.asked import JsonOption, MarketOption, UniverseOption
from ohlcv_assets.cli.completion import choices, complete_symbol
from ohlcv_assets.settings import Settings, settings

if TYPE_CHECKING:
    import polars as pl

    from ohlcv_assets.cli.coverage_facts import Coverage
    from ohlcv_assets.client import OhlcvClient
    from ohlcv_assets.client.question import MissingFrom, Source
    from ohlcv_assets.instruments import Market
    from ohlcv_assets.timestamps import Interval

_Symbols = Annotated[
    list[str] | None,
    typer.Argument(
        help="Such as BTC/USDT, or a pattern: '*/USDT'; several, or separated by commas; default: all.",
        show_default=False,
        autocompletion=complete_symbol,
    ),
]
_Start = Annotated[
    str | None,
    typer.Option(help="First moment, UTC: 2025-06-01 or 2025-06-01T05:00Z; default: 30 days before the end.", show_default=False),
]  # fmt: skip
_End = Annotated[
    str | None,
    typer.Option(
        help="The end, which is not part of it; default: the last midnight, UTC; of a replay exchange, its own.",
        show_default=False,
    ),
]
_Sources = Annotated[
    str,
    typer.Option(
        help="daily: the lake; streamed: PostgreSQL; both: a bar in either is there.",
        autocompletion=choices("daily", "streamed", "both"),
    ),
]
_Output = Annotated[
    Path | None,
    typer.Option("--output", "-o", help="Heat map to write, whole or not at all: .png or .html.", show_default=False),
]
_Top = Annotated[
    int, typer.Option(min=1, help="Show so many symbols, or ranges, the worst first; JSON and files have all.")
]

_DEFAULT_DAYS = 30
#: Binance began in 2017: a year that was mistyped would ask for a grid of centuries.
_MOST_DAYS = 30 * 366
_PICTURES = (".png", ".html")
#: By what is typed: the stores whose bars are counted, and the client's name for what they lack.
_STORES: dict[str, tuple[tuple[Source, ...], MissingFrom]] = {
    "daily": (("daily",), "daily"),
    "streamed": (("streamed",), "streamed"),
    "both": (("daily", "streamed"), "both"),
}


def coverage(
    market: MarketOption,
    symbols: _Symbols = None,
    start: _Start = None,
    end: _End = None,
    source: _Sources = "both",
    universe: UniverseOption = None,
    missing: Annotated[
        bool, typer.Option("--missing", help="The missing minutes in ranges, with state and cause by the ledger.")
    ] = False,
    top: _Top = 30,
    output: _Output = None,
    as_json: JsonOption = False,
) -> None:
    """Say what there is of the expected bars of [start, end), symbol by symbol and day by day.

    A bar is expected of every minute that is over and in which its symbol was listed. By default the last 30 finished days are looked
    at: of today the lake has nothing before tomorrow.

    \b
    Examples:
      ohlcv coverage --market spot
      ohlcv coverage 'BTC/*' ETH/USDT --market spot --start 2025-01-01 --end 2026-01-01 --output 2025.html
      ohlcv coverage --market futures --start 2025-06-01 --end 2025-06-02 --missing
      ohlcv coverage --market spot --source daily --json | jq '.symbols[] | select(.missing > 0) | .symbol'

    Exit code: 0 every expected minute is there; 1 minutes are missing; 2 the question cannot be meant; 3 lake or database are
    unavailable.
    """  # noqa: D301  the backspace keeps the lines of the examples apart
    from ohlcv_assets.cli.asked import universe_of
    from ohlcv_assets.cli.stores import open_client
    from ohlcv_assets.instruments import Market

    _refuse(source, output)
    configured = settings()
    if universe is not None:
        configured = configured.model_copy(update={"universe": universe})
    chosen = Market.parse(market)
    universe_of(configured, None, chosen)
    interval = _interval(configured, chosen, start, end)
    with open_client(configured, lake_only=source == "daily") as client:
        found = _found(client, configured.universe, market, symbols, interval, source, missing=missing)
    if output is not None:
        _write(found, output)
    if as_json:
        _tell(found)
    else:
        _show(found, top, beside=output)
    raise typer.Exit(1 if found.totals["missing"] else 0)


def _refuse(source: str, output: Path | None) -> None:
    """A choice that there is not, before anything is read."""
    from ohlcv_assets.errors import UsageError

    if source not in _STORES:
        raise UsageError(f"source={source!r} is not known", hint="use daily, streamed or both")
    if output is not None and output.suffix.lower() not in _PICTURES:
        raise UsageError(f"{output} does not say which kind of heat map", hint="end its name in .png or .html")


def _interval(configured: Settings, market: Market, start: str | None, end: str | None) -> Interval:
    """[start, end); what is not given is the last midnight, and thirty days before the end."""
    from ohlcv_assets.cli.asked import now_of
    from ohlcv_assets.errors import UsageError
    from ohlcv_assets.timestamps import DAY_MS, Interval, floor_to, parse_time

    if end is None:
        now = now_of(configured, market)
        end_ms = floor_to(round(now.moment_ms), DAY_MS)
        if start is not None and parse_time(start) >= end_ms:
            raise UsageError(
                f"no day of what begins at {start} is over: {now}", hint="choose an earlier start, or give --end"
            )
    else:
        end_ms = parse_time(end)
    interval = Interval(end_ms - _DEFAULT_DAYS * DAY_MS if start is None else parse_time(start), end_ms)
    if interval.end_ms - interval.start_ms > _MOST_DAYS * DAY_MS:
        raise UsageError(f"{interval} is longer than Binance exists", hint="look at the years of --start and --end")
    return interval


def _found(
    client: OhlcvClient,
    version: str,
    market: str,
    symbols: list[str] | None,
    interval: Interval,
    source: str,
    *,
    missing: bool,
) -> Coverage:
    from ohlcv_assets.cli.asked import names_of
    from ohlcv_assets.cli.coverage_facts import Coverage
    from ohlcv_assets.errors import DatabaseUnavailable
    from ohlcv_assets.timestamps import iso

    names = names_of(symbols) if symbols else None
    if source == "streamed" and not client.has_database:
        raise DatabaseUnavailable(
            "there is no database, where streamed bars are", hint="set OHLCV_DATABASE_URL, or use --source daily"
        )
    stores, of_both = _STORES[source]
    asked = (market, iso(interval.start_ms), iso(interval.end_ms), names)
    table = client.coverage(*asked, sources=stores)
    ranges = client.missing_ranges(*asked, source=of_both) if missing else None
    return Coverage(market, version, interval, source, client.has_database, table, ranges, tuple(names or ()))


def _write(found: Coverage, output: Path) -> None:
    from ohlcv_assets.cli.coverage_map import picture
    from ohlcv_assets.cli.formats import whole_file

    if output.suffix.lower() == ".png":
        content = picture(found)
    else:
        from ohlcv_assets.cli.coverage_page import page

        content = page(found).encode()
    with whole_file(output) as file:
        file.write(content)
    print(f"heat map in {output}", file=sys.stderr)


def _tell(found: Coverage) -> None:
    from ohlcv_assets.cli.asked import print_json

    print_json(found.facts())


def _show(found: Coverage, top: int, beside: Path | None) -> None:
    """The table and the map, or the ranges; with a file beside it what they come to."""
    if found.table.is_empty():
        print(f"no bar of {found.interval} is expected")
        return
    print(f"{found.market} {found.interval}, {found.symbols.height:,} symbols of {found.universe}")
    if found.is_blind:
        print("there is no database: what was streamed is not known", file=sys.stderr)
    if beside is None:
        if found.ranges is None:
            _show_symbols(found, top)
        else:
            _show_ranges(found.ranges, top)
    print(found.sentence())
    if found.totals["missing"] and found.ranges is None:
        print(f"try: {found.command} --missing")


def _show_symbols(found: Coverage, top: int) -> None:
    from ohlcv_assets.cli.coverage_facts import ALL, columns_within, row_of
    from ohlcv_assets.cli.coverage_map import show_map
    from ohlcv_assets.cli.universe_tables import show_table

    shown = found.symbols.head(top)
    rows = [row_of(each) for each in shown.iter_rows(named=True)]
    rows.append(row_of({**found.totals, "symbol": ALL}))
    columns = columns_within(_width(), rows)
    show_table(columns, [[row[name] for name in columns] for row in rows], right=columns[1:])
    rest = found.symbols.slice(top)
    if not rest.is_empty():
        spoiled = rest.filter(rest["missing"] > 0).height
        print(
            f"and {rest.height:,} more symbols, {spoiled:,} of them not whole: --top {found.symbols.height} shows all"
        )
    print()
    show_map(found, top)
    print()


def _show_ranges(ranges: pl.DataFrame, top: int) -> None:
    from ohlcv_assets.cli.coverage_facts import range_facts
    from ohlcv_assets.cli.universe_tables import show_table

    rows = [range_facts(row) for row in ranges.head(top).iter_rows(named=True)]
    if rows:
        shown = [["" if value is None else str(value) for value in row.values()] for row in rows]
        show_table(list(rows[0]), shown, right=("minutes",))
    if ranges.height > top:
        print(f"and {ranges.height - top:,} more ranges: --json has all of them")


def _width() -> int | None:
    """How wide the terminal is; None where there is none."""
    if not sys.stdout.isatty():
        return None
    from rich.console import Console

    return Console().width
