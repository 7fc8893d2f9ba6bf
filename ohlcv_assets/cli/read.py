"""`ohlcv read`: stored bars for people and for other programs.

Lives here: options and exit codes, and how a long answer is read in parts. Does not: reading (client/), or the formats
(cli/formats.py).
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ohlcv_assets.cli.asked import MarketOption, UniverseOption
from ohlcv_assets.cli.completion import choices, complete_symbol
from ohlcv_assets.settings import settings

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import polars as pl

    from ohlcv_assets.client import OhlcvClient
    from ohlcv_assets.instruments import Symbol
    from ohlcv_assets.timestamps import Interval

_Symbols = Annotated[
    list[str],
    typer.Argument(
        help="Such as BTC/USDT, or a pattern: '*/USDT'; several, or separated by commas.",
        show_default=False,
        autocompletion=complete_symbol,
    ),
]
_Start = Annotated[str, typer.Option(help="First moment, UTC: 2025-06-01 or 2025-06-01T05:00Z.", show_default=False)]
_End = Annotated[str, typer.Option(help="The end, which is not part of it.", show_default=False)]
_AsOf = Annotated[str | None, typer.Option(help="What was known then, and nothing learnt later.", show_default=False)]
_Columns = Annotated[str | None, typer.Option(help="Separated by commas; default: all values.", show_default=False)]
_Output = Annotated[
    Path | None, typer.Option("--output", "-o", help="File to write, whole or not at all.", show_default=False)
]
_Format = Annotated[
    str | None,
    typer.Option(
        "--format", "-f", help="table, csv, jsonl or parquet; default: the end of --output's name, or table.",
        show_default=False, autocompletion=choices("table", "csv", "jsonl", "parquet"),
    ),
]  # fmt: skip
_Resample = Annotated[
    str | None,
    typer.Option(
        help="Longer bars: 3m, 5m, 15m, 30m, 1h, 2h, 4h, 6h, 8h, 12h, 1d.",
        show_default=False,
        autocompletion=choices("3m", "5m", "15m", "30m", "1h", "2h", "4h", "6h", "8h", "12h", "1d"),
    ),
]
_Fill = Annotated[
    str | None,
    typer.Option(
        help="forward: make up what is not there from the last close, and mark it.",
        show_default=False,
        autocompletion=choices("forward"),
    ),
]

#: So many bars of a minute are held at once.
_MOST_BARS = 5_000_000


def read(
    symbols: _Symbols,
    market: MarketOption,
    start: _Start,
    end: _End,
    source: Annotated[
        str,
        typer.Option(
            help="daily: the lake; streamed: PostgreSQL; stitched: the lake, and the rest streamed.",
            autocompletion=choices("daily", "streamed", "stitched"),
        ),
    ] = "daily",
    as_of: _AsOf = None,
    label: Annotated[
        str,
        typer.Option(
            help="Which end of a bar's minute is its label: end or start.", autocompletion=choices("end", "start")
        ),
    ] = "end",
    columns: _Columns = None,
    verified: Annotated[
        bool, typer.Option("--verified", help="Only bars that two captures agree about, by the ledger.")
    ] = False,
    on_unverified: Annotated[
        str, typer.Option(help="With --verified: raise, or drop them.", autocompletion=choices("raise", "drop"))
    ] = "raise",
    resample: _Resample = None,
    incomplete: Annotated[
        str,
        typer.Option(
            help="Of --resample, windows that lack minutes: raise, drop or keep.",
            autocompletion=choices("raise", "drop", "keep"),
        ),
    ] = "raise",
    fill: _Fill = None,
    on_missing: Annotated[
        str,
        typer.Option(help="Days that are not there: raise, or skip them.", autocompletion=choices("raise", "skip")),
    ] = "raise",
    universe: UniverseOption = None,
    format_: _Format = None,
    output: _Output = None,
    as_json: Annotated[bool, typer.Option("--json", help="The same as --format jsonl.")] = False,
) -> None:
    """Read bars of [start, end), sorted by symbol and time, to look at or to hand on.

    A bar that is not stored is not made up, unless --fill asks for it. A table shows the first and the last rows of a long answer;
    csv, jsonl and parquet have all of them, with every value exact.

    \b
    Examples:
      ohlcv read BTC/USDT --market spot --start 2025-06-01 --end 2025-06-02
      ohlcv read BTC/USDT:USDT --market futures --start 2025-06-01 --end 2025-07-01 --verified --resample 1h -o btc.parquet
      ohlcv read '*/USDT' --market spot --start 2025-06-01 --end 2025-06-02 --columns close --format csv | head

    Exit code: 0 read; 1 nothing is there, days are missing, or bars are not verified; 2 the question cannot be meant; 3 lake or
    database are unavailable.
    """  # noqa: D301  the backspace keeps the lines of the examples apart
    from ohlcv_assets.cli.asked import names_of, universe_of
    from ohlcv_assets.cli.formats import format_of, written
    from ohlcv_assets.cli.stores import open_client
    from ohlcv_assets.client.question import interval_of, symbols_of
    from ohlcv_assets.errors import UsageError
    from ohlcv_assets.instruments import Market

    if as_json and format_ not in (None, "jsonl"):
        raise UsageError(f"--json is --format jsonl, and not {format_}", hint="give one of them")
    written_as = format_of("jsonl" if as_json else format_, output)
    options = {
        "source": source,
        "as_of": as_of,
        "label": label,
        "columns": None if columns is None else names_of([columns]),
        "verified": verified,
        "on_unverified": on_unverified,
        "resample": resample,
        "incomplete": incomplete,
        "fill": fill,
        "on_missing": on_missing,
    }
    configured, chosen = settings(), Market.parse(market)
    if universe is not None:
        configured = configured.model_copy(update={"universe": universe})
    wanted = symbols_of(universe_of(configured, None, chosen), chosen, names_of(symbols))
    with open_client(configured) as client:
        written(_parts(client, wanted, interval_of(start, end), {"market": market, **options}), written_as, output)


def _parts(
    client: OhlcvClient, wanted: Sequence[Symbol], interval: Interval, options: dict[str, Any]
) -> Iterator[pl.DataFrame]:
    """The answer in parts of whole symbols, in order; only one part is held at once.

    Raises:
        NoBars: no part has a bar.
    """
    from ohlcv_assets.errors import NoBars
    from ohlcv_assets.timestamps import iso

    width = max(1, _MOST_BARS // max(1, len(interval.minutes)))
    if len(wanted) > width:
        options = _of_parts(client, wanted, interval, options)
    found, nothing = False, None
    for first in range(0, len(wanted), width):
        names = wanted[first : first + width]
        try:
            part = client.read(names, iso(interval.start_ms), iso(interval.end_ms), **options)
        except NoBars as error:
            nothing = nothing or error
            continue
        found = True
        yield part
    if nothing is not None and not found:
        raise nothing


def _of_parts(
    client: OhlcvClient, wanted: Sequence[Symbol], interval: Interval, options: dict[str, Any]
) -> dict[str, Any]:
    """The options of a part: whether a day is there in the database is found out before, of all symbols, and not of each part.

    Raises:
        DayMissing: a whole day is not there.
    """
    from ohlcv_assets.timestamps import iso

    if options["on_missing"] != "raise" or options["source"] == "daily" or not client.has_database:
        return options
    asked = {name: options[name] for name in ("market", "source", "as_of")}
    client.insist_on_days(wanted, iso(interval.start_ms), iso(interval.end_ms), **asked)
    return options | {"on_missing": "skip"}
