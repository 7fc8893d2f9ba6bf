"""What `ohlcv universe` shows: what differs between two universes, and tables on a terminal or as plain lines.

Lives here: words and columns. Does not: reading or making a universe.
"""

from __future__ import annotations

import sys
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from ohlcv_assets.instruments import Market, Symbol, Universe
from ohlcv_assets.listing_times import ListingTimes
from ohlcv_assets.timestamps import iso


@dataclass(frozen=True)
class Change:
    """One symbol that two universes differ in.

    Attributes:
        market: the symbol's.
        symbol: the symbol.
        change: added, removed, delisted, listed again, dated (its times were not known before), or times (they were others).
        detail: its listing times, in words.
    """

    market: str
    symbol: str
    change: str
    detail: str


def changes(former: Universe, universe: Universe) -> list[Change]:
    """What is otherwise in a universe than in a former one, by market and symbol."""
    found = []
    for market in Market:
        before, after = set(former.symbols[market]), set(universe.symbols[market])
        for symbol in sorted(before | after):
            old, new = former.listings.get(symbol), universe.listings.get(symbol)
            change = _kept(old, new) if symbol in before & after else "added" if symbol in after else "removed"
            if change is not None:
                found.append(Change(market.value, symbol, change, in_words(new if symbol in after else old)))
    return found


def _kept(old: ListingTimes | None, new: ListingTimes | None) -> str | None:
    """What changed of a symbol that both have; None for nothing."""
    if old == new:
        return None
    ended_before, ended = (times is not None and times.until_ms is not None for times in (old, new))
    if ended_before == ended:
        return "dated" if old is None else "times"
    return "delisted" if ended else "listed again"


def in_words(times: ListingTimes | None) -> str:
    """Every span and where it is known from; nothing where nothing is known."""
    return "" if times is None else "; ".join(f"{span} {span.source}" for span in times.spans)


def delisted(universe: Universe) -> list[Symbol]:
    """The symbols whose listing has an end."""
    return [symbol for symbol, times in universe.listings.items() if times.until_ms is not None]


def listing_row(universe: Universe, symbol: Symbol) -> tuple[str, str, str, str, str]:
    """Market, symbol, since, until and source; of a symbol that came back, those of all its spans."""
    times = universe.listings.get(symbol)
    if times is None:
        return symbol.market.value, symbol, "", "", ""
    since = ", ".join("?" if span.since_ms is None else iso(span.since_ms) for span in times.spans)
    until = ", ".join("" if span.until_ms is None else iso(span.until_ms) for span in times.spans)
    return symbol.market.value, symbol, since, until.strip(", "), "; ".join(span.source for span in times.spans)


def show_table(columns: Sequence[str], rows: Sequence[Sequence[str]], right: Collection[str] = ()) -> None:
    """A table on a terminal; elsewhere lines with their columns below one another, and nothing else.

    Args:
        columns: their names.
        rows: a text for each of them.
        right: the columns that stand to the right, as numbers do.
    """
    if sys.stdout.isatty():
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        table = Table(header_style="bold")
        for name in columns:
            table.add_column(name, justify="right" if name in right else "left")
        for row in rows:
            table.add_row(*map(Text, row))
        Console().print(table)
        return
    widths = [max(map(len, column)) for column in zip(columns, *rows, strict=True)]
    for row in (columns, *rows):
        cells = zip(columns, row, widths, strict=True)
        line = "  ".join(cell.rjust(width) if name in right else cell.ljust(width) for name, cell, width in cells)
        print(line.rstrip())
