"""The heat map of `ohlcv coverage`: every symbol a row, days from left to right, a level a cell; on a terminal and as a PNG.

Lives here: the levels, their colours and characters, days put together so that they fit, and both drawings. Does not: counting
(coverage_facts.py), or the cells of the HTML page, which takes them from here (coverage_page.py).
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from enum import IntEnum
from typing import TYPE_CHECKING, Final

import numpy as np
import polars as pl
from numpy.typing import NDArray

from ohlcv_assets.client.question import days_of

if TYPE_CHECKING:
    from rich.text import Text

    from ohlcv_assets.cli.coverage_facts import Coverage


class Level(IntEnum):
    """How much of what is expected is there."""

    NOT_EXPECTED = 0
    WHOLE = 1
    NEARLY = 2
    MOST = 3
    SOME = 4
    NOTHING = 5


#: Told apart also by those who do not see red and green alike: the good is pale, the rest is strong.
COLOURS: Final = {
    Level.NOT_EXPECTED: ("#d5d9e088", "nothing expected"),
    Level.WHOLE: ("#bfe3c8", "all"),
    Level.NEARLY: ("#f4d35e", "99 % or more"),
    Level.MOST: ("#f0a020", "90 % or more"),
    Level.SOME: ("#d1495b", "less"),
    Level.NOTHING: ("#6b3fa0", "nothing"),
}
#: On a terminal, whose ground may be dark or light: ink and ground of a cell.
_STYLES: Final = {
    Level.NOT_EXPECTED: "",
    Level.WHOLE: "#8fd3a5 on #2c6e49",
    Level.NEARLY: "black on #f4d35e",
    Level.MOST: "black on #f0a020",
    Level.SOME: "bold white on #b93a4c",
    Level.NOTHING: "#cdb8ea on #5b3492",
}
_LEGEND: Final = (
    (Level.WHOLE, "#", "all"),
    (Level.NEARLY, "9", ">= 99 %"),
    (Level.MOST, "9", ">= 90 %"),
    (Level.SOME, "8", "less, in tenths"),
    (Level.NOTHING, ".", "nothing"),
)
#: Where nobody looks at a terminal, lines are as long as a terminal mostly is.
_PLAIN_WIDTH = 100
_WIDEST_CELL = 3
_MOST_PICTURED, _MOST_LABELS = 400, 140
_DPI = 130


@dataclass(frozen=True)
class Grid:
    """What is drawn.

    Attributes:
        symbols: a row each, in this order.
        firsts: the first day of each column; `days` of them are one column.
        expected: minutes, `[symbols, columns]`; `missing` likewise.
    """

    symbols: Sequence[str]
    firsts: Sequence[date]
    days: int
    expected: NDArray[np.int64]
    missing: NDArray[np.int64]

    @property
    def levels(self) -> NDArray[np.int8]:
        """The `Level` of each cell."""
        # In whole numbers: what is not all is never shown as all.
        there = self.expected - self.missing
        worst_first = [self.expected == 0, self.missing == 0, there == 0]
        worst_first += [there * 100 >= self.expected * 99, there * 10 >= self.expected * 9]
        levels = [Level.NOT_EXPECTED, Level.WHOLE, Level.NOTHING, Level.NEARLY, Level.MOST]
        return np.select(worst_first, levels, Level.SOME).astype(np.int8)

    @property
    def characters(self) -> NDArray[np.str_]:
        """A character for each cell: # all, . nothing, else the tenths that are there; blank where nothing is expected."""
        tenths = (self.expected - self.missing) * 10 // np.maximum(self.expected, 1)
        shown: NDArray[np.str_] = np.minimum(tenths, 9).astype("U1")
        shown[self.levels == Level.WHOLE] = "#"
        shown[self.levels == Level.NOTHING] = "."
        shown[self.levels == Level.NOT_EXPECTED] = " "
        return shown

    def name(self, column: int) -> str:
        """The days of a column."""
        first = self.firsts[column]
        last = first + timedelta(days=self.days - 1)
        return f"{first}" if self.days == 1 else f"{first} to {last}"


def grid(found: Coverage, symbols: Sequence[str], most_columns: int) -> Grid:
    """The cells of these symbols, as many days in each column as must be for so many columns at most."""
    every = days_of(found.interval)
    days = -(-len(every) // max(1, most_columns))
    firsts = every[::days]
    rows = pl.DataFrame({"symbol": list(symbols)}, schema={"symbol": pl.String}).with_row_index("row")
    column = ((pl.col("day") - pl.lit(every[0])).dt.total_days() // days).alias("column")
    placed = found.table.join(rows, on="symbol").group_by("row", column).agg(pl.col("expected", "missing").sum())
    at = (placed["row"].to_numpy(), placed["column"].to_numpy())
    counts = []
    for name in ("expected", "missing"):
        cells = np.zeros((len(symbols), len(firsts)), dtype=np.int64)
        cells[at] = placed[name].to_numpy()
        counts.append(cells)
    return Grid(symbols, firsts, days, *counts)


def show_map(found: Coverage, top: int) -> None:
    """The map of the worst symbols: in colours on a terminal, the same characters alone elsewhere."""
    names = found.symbols["symbol"].head(top).to_list()
    label = max(map(len, names)) + 1
    if not sys.stdout.isatty():
        for line in _lines(grid(found, names, _PLAIN_WIDTH - label), label, 1):
            print(line.plain.rstrip())
        return
    from rich.console import Console

    console = Console(highlight=False)
    drawn = grid(found, names, max(1, console.width - label))
    cell = max(1, min(_WIDEST_CELL, (console.width - label) // len(drawn.firsts)))
    for line in _lines(drawn, label, cell):
        console.print(line, no_wrap=True, overflow="crop")


def _lines(drawn: Grid, label: int, cell: int) -> list[Text]:
    """The dates, a line a symbol, and what the characters mean."""
    from rich.text import Text

    levels, characters = drawn.levels, drawn.characters
    lines = [Text(" " * label + _dates(drawn, cell), style="dim")]
    for row, symbol in enumerate(drawn.symbols):
        line = Text(symbol.ljust(label))
        for level, character in zip(levels[row], characters[row], strict=True):
            line.append(str(character).center(cell), style=_STYLES[Level(level)])
        lines.append(line)
    legend = Text()
    for level, character, meaning in _LEGEND:
        legend.append(f" {character} ", style=_STYLES[level]).append(f" {meaning}  ", style="dim")
    many = "a day" if drawn.days == 1 else f"{drawn.days} days"
    return [*lines, Text(), legend, Text(f"a column is {many}, UTC", style="dim")]


def _dates(drawn: Grid, cell: int) -> str:
    """The first days of columns, as many as have room: with the year at first, and where another begins."""
    text, year = "", None
    for column, first in enumerate(drawn.firsts):
        shown = f"{first}" if first.year != year else f"{first:%m-%d}"
        at = column * cell
        if (at == 0 or at >= len(text) + 2) and at + len(shown) <= max(len(drawn.firsts) * cell, len(shown)):
            text, year = text.ljust(at) + shown, first.year
    return text


def picture(found: Coverage) -> bytes:
    """The map of all symbols, a PNG."""
    from ohlcv_assets.quality.picture import Picture

    names = found.symbols["symbol"].to_list()
    drawn = grid(found, names, _MOST_PICTURED)
    step = max(1, -(-len(names) // _MOST_LABELS))
    rows = {row: names[row] for row in range(0, len(names), step)}
    every = max(1, len(drawn.firsts) // 10)
    columns = {float(at): f"{drawn.firsts[at]}" for at in range(0, len(drawn.firsts), every)}
    levels = drawn.levels
    shown = [Level.WHOLE, *(level for level in Level if level != Level.WHOLE and (levels == level).any())]
    return Picture(levels, [COLOURS[level] for level in Level], shown, rows, columns, most_height_in=26.0).png(_DPI)
