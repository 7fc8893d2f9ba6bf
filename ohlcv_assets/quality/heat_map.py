"""The heat map of a verdict: every symbol a row, time from left to right, the worst of each cell as its colour.

Lives here: which state each expected minute has in the picture, and the picture (PNG). Does not: what is right or wrong
(verdict.py), how a picture is drawn (picture.py), or where it is shown.

The states here are what can be seen of one comparison. Why a minute is missing is the ledger's to say.
"""

from __future__ import annotations

import base64
from enum import IntEnum
from typing import TYPE_CHECKING

import numpy as np
import polars as pl
from numpy.typing import NDArray

from ohlcv_assets.quality.explained import nothing_explained, unexplained
from ohlcv_assets.quality.picture import Picture
from ohlcv_assets.timestamps import MINUTE_MS, from_ms

if TYPE_CHECKING:
    from ohlcv_assets.quality.verdict import Verdict

#: What a picture may weigh: Dagster keeps it with every evaluation.
LIMIT_BYTES = 100_000


class Cell(IntEnum):
    """What is seen of one expected minute of one symbol; of several in one cell the last of these counts."""

    EQUAL = 0
    EXPLAINED = 1
    ONLY_FETCHED = 2
    ONLY_STREAMED = 3
    MISSING = 4
    DIFFERING = 5
    DUPLICATE = 6


#: Told apart also by those who do not see red and green alike: the good is pale, the rest is strong.
_COLOURS = {
    Cell.EQUAL: ("#bfe3c8", "equal on both sides"),
    Cell.EXPLAINED: ("#b4bac4", "could not be"),
    Cell.ONLY_FETCHED: ("#f0a020", "not streamed"),
    Cell.ONLY_STREAMED: ("#2f7ed8", "not fetched"),
    Cell.MISSING: ("#6b3fa0", "on neither side"),
    Cell.DIFFERING: ("#d62728", "values differ"),
    Cell.DUPLICATE: ("#e0218a", "there twice"),
}
_KINDS = {
    "only_right": Cell.ONLY_FETCHED,
    "only_left": Cell.ONLY_STREAMED,
    "value_differs": Cell.DIFFERING,
    "duplicate_left": Cell.DUPLICATE,
    "duplicate_right": Cell.DUPLICATE,
}
_MOST_COLUMNS = 96
_MOST_LABELS = 40


def cells(verdict: Verdict, explained: pl.DataFrame | None = None) -> NDArray[np.int8]:
    """A `Cell` for every symbol (in the verdict's order) and minute of the interval: `[symbols, minutes]`.

    Args:
        verdict: both sides, compared.
        explained: `explained.EXPLAINED_SCHEMA`: minutes that are proven not to be there.
    """
    known = nothing_explained() if explained is None else explained
    grid = np.zeros((len(verdict.symbols), len(verdict.interval.minutes)), dtype=np.int8)
    kinds = pl.col("kind").replace_strict({kind: int(cell) for kind, cell in _KINDS.items()}, return_dtype=pl.Int8)
    _paint(grid, verdict, known.with_columns(cell=pl.lit(int(Cell.EXPLAINED), pl.Int8)))
    lacking = unexplained(verdict.both_lack(), known)
    _paint(grid, verdict, lacking.with_columns(cell=pl.lit(int(Cell.MISSING), pl.Int8)))
    _paint(grid, verdict, verdict.match.differences.select("symbol", "timestamp", cell=kinds))
    return grid


def heat_map(verdict: Verdict, explained: pl.DataFrame | None = None) -> bytes:
    """The picture, a PNG of at most 100,000 bytes with a transparent ground, for light and dark pages.

    Args:
        verdict: both sides, compared.
        explained: as for `cells`.
    """
    grid = _binned(cells(verdict, explained))
    for dpi in (110, 80, 50):
        picture = _drawn(verdict, grid, dpi)
        if len(picture) <= LIMIT_BYTES:
            return picture
    return _drawn(verdict, grid[:: len(grid) // 100 + 1], 40)


def data_uri(picture: bytes) -> str:
    """The picture as text that a page can hold."""
    return f"data:image/png;base64,{base64.b64encode(picture).decode()}"


def _paint(grid: NDArray[np.int8], verdict: Verdict, states: pl.DataFrame) -> None:
    """Write the states into the grid; what lies outside of it, a strange symbol or time, has no place there."""
    rows = pl.DataFrame({"symbol": verdict.symbols}, schema={"symbol": pl.String}).with_row_index("row")
    column = ((pl.col("timestamp") - verdict.interval.minutes.start) // MINUTE_MS).alias("column")
    placed = (
        states.join(rows, on="symbol").with_columns(column).filter(pl.col("column").is_between(0, grid.shape[1] - 1))
    )
    at = (placed["row"].to_numpy(), placed["column"].to_numpy())
    np.maximum.at(grid, at, placed["cell"].to_numpy())


def _binned(grid: NDArray[np.int8]) -> NDArray[np.int8]:
    """The worst of consecutive minutes, so that at most 96 columns are left: a quarter of an hour of a day."""
    width = -(-grid.shape[1] // _MOST_COLUMNS)
    padded = np.pad(grid, ((0, 0), (0, -grid.shape[1] % width)))
    worst: NDArray[np.int8] = padded.reshape(len(grid), -1, width).max(axis=2)
    return worst


def _drawn(verdict: Verdict, grid: NDArray[np.int8], dpi: int) -> bytes:
    symbols = verdict.symbols
    shown = range(len(symbols)) if len(symbols) <= _MOST_LABELS else _worst_rows(grid)
    present = [Cell.EQUAL, *(Cell(value) for value in np.unique(grid) if value)]
    labels = {row: symbols[row] for row in shown}
    classes = [_COLOURS[cell] for cell in Cell]
    return Picture(grid, classes, present, labels, _times(verdict, grid.shape[1])).png(dpi)


def _times(verdict: Verdict, columns: int) -> dict[float, str]:
    """Some dozen times of day, by the edge of the column at which they are."""
    interval = verdict.interval
    ticks = range(0, columns + 1, max(columns // 12, 1))
    span_ms = interval.end_ms - interval.start_ms
    return {tick - 0.5: f"{from_ms(interval.start_ms + span_ms * tick // max(columns, 1)):%H:%M}" for tick in ticks}


def _worst_rows(grid: NDArray[np.int8]) -> list[int]:
    """The rows with the most spoiled cells, so far apart that their labels do not overlap."""
    spoiled = (grid > Cell.EXPLAINED).sum(axis=1)
    apart = len(grid) / _MOST_LABELS
    chosen: list[int] = []
    for row in np.argsort(-spoiled, kind="stable").tolist():
        if spoiled[row] and all(abs(row - other) >= apart for other in chosen):
            chosen.append(row)
    return sorted(chosen)
