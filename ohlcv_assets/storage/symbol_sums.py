"""The check sums of a day's file: one for every symbol and column, so that a part of a day proves itself.

Lives here: how the sums are made when a file is written, and how rows that were read are compared with them. Does not:
the content hash, which proves a whole day (bars_file.py), or the reading (day_reader.py).

A reader of one symbol's closes reads neither the other symbols nor the other columns, so it cannot make the content hash.
Parquet has optional check sums of pages, but polars writes none and looks at none. CRC-32 finds every single flipped bit
and every burst of up to 32, and of other damage all but one in four billion; it costs 2 us a symbol, column and day.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from ohlcv_assets.bars import SCHEMA
from ohlcv_assets.timestamps import DAY_MS

#: Under this name the sums stand in the file's key-value metadata.
SUMS_KEY = "ohlcv.symbol_sums"
#: What has a sum: every number and time. The market is one of the whole file, the symbol is what the sums go by.
SUMMED: tuple[str, ...] = tuple(name for name, dtype in SCHEMA.items() if dtype != pl.String())
_HEX_DIGITS = 8


@dataclass(frozen=True)
class Run:
    """Consecutive rows of one symbol and UTC day: `frame[first:last]`; `day` counts from 1970-01-01."""

    day: int
    symbol: str
    first: int
    last: int


def symbol_sums(frame: pl.DataFrame) -> str:
    """The text for a file's metadata: for each symbol the sums of its columns, eight hexadecimal digits each.

    Args:
        frame: a day's bars (`SCHEMA`) as they are stored: sorted by (symbol, timestamp).
    """
    columns = _bytes_of(frame, SUMMED)
    symbols = {run.symbol: "".join(f"{_sum(column, run):08x}" for column in columns) for run in runs(frame)}
    return json.dumps({"columns": SUMMED, "symbols": symbols}, ensure_ascii=False, separators=(",", ":"))


def parse_sums(text: str, symbols: Collection[str] | None = None) -> Mapping[str, Mapping[str, int]]:
    """The sums of a file: by symbol and column.

    Args:
        text: what `symbol_sums` gave.
        symbols: only these, where the file has them; None for all.

    Raises:
        ValueError: no text of this form.
    """
    try:
        content = json.loads(text)
        held = content["symbols"]
        wanted = held if symbols is None else [symbol for symbol in symbols if symbol in held]
        return {symbol: _numbers(content["columns"], held[symbol]) for symbol in wanted}
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"no check sums: {error!r}") from error


def runs(frame: pl.DataFrame) -> list[Run]:
    """The rows of each symbol and day, in the order in which they stand: `symbol` and `timestamp` are looked at."""
    if frame.is_empty():
        return []
    days = frame["timestamp"].to_numpy() // DAY_MS
    rows = frame["symbol"].rle().struct.field("len").to_numpy().astype(np.int64)
    firsts = np.union1d(np.cumsum(rows) - rows, np.flatnonzero(days[1:] != days[:-1]) + 1)
    lasts = np.append(firsts[1:], frame.height)
    names = frame["symbol"].gather(firsts).to_list()
    return [Run(*row) for row in zip(days[firsts].tolist(), names, firsts.tolist(), lasts.tolist(), strict=True)]


def damage(
    frame: pl.DataFrame, found: Sequence[Run], sums_of_day: Mapping[int, Mapping[str, Mapping[str, int]]]
) -> tuple[int, str] | None:
    """The first day that is not what was written, and what is wrong with it; None when everything is.

    Args:
        frame: rows of whole days of some symbols, with any columns, among them `symbol` and `timestamp`.
        found: its `runs`.
        sums_of_day: for each day the sums of the symbols that were asked for and that the file holds.
    """
    columns = [name for name in SUMMED if name in frame.columns]
    values = _bytes_of(frame, columns)
    waiting = {(day, symbol) for day, sums in sums_of_day.items() for symbol in sums}
    for run in found:
        if (run.day, run.symbol) not in waiting:
            day = run.day if run.day in sums_of_day else next(iter(sums_of_day))
            return day, f"rows of {run.symbol} out of place"
        waiting.remove((run.day, run.symbol))
        sums = sums_of_day[run.day][run.symbol]
        for name, column in zip(columns, values, strict=True):
            if _sum(column, run) != sums.get(name):
                return run.day, f"the column {name} of {run.symbol}"
    return next(((day, f"no rows of {symbol}") for day, symbol in sorted(waiting)), None)


def _numbers(columns: Sequence[str], digits: str) -> dict[str, int]:
    starts = range(0, len(columns) * _HEX_DIGITS, _HEX_DIGITS)
    return {name: int(digits[at : at + _HEX_DIGITS], 16) for name, at in zip(columns, starts, strict=True)}


def _bytes_of(frame: pl.DataFrame, columns: Sequence[str]) -> list[memoryview]:
    """The columns as bytes, 8 to a row, the same on every machine."""
    arrays = (frame[name].to_physical().to_numpy() for name in columns)
    return [np.ascontiguousarray(array, array.dtype.newbyteorder("<")).data.cast("B") for array in arrays]


def _sum(column: memoryview, run: Run) -> int:
    return zlib.crc32(column[run.first * 8 : run.last * 8])
