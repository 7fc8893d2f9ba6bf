"""Reading of many days at once: some symbols, some columns, every value proved by its check sum.

Lives here: scans over the files of the days, in which polars skips the row groups and pages of other symbols and the columns
that nobody asked for, and the comparison of what came with the sums in the files. Does not: which key a day has (lake.py), or
how sums are made (symbol_sums.py). The lake hands in locations; the client gets the rows, sorted by symbol and time.

The days are read in parts: while polars reads the next ones, the sums of the former ones are compared. A file from before
there were sums is read whole and compared with its content hash: slower, and as safe.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import date
from typing import Any

import polars as pl

from ohlcv_assets.bars import SCHEMA
from ohlcv_assets.errors import CorruptFile, DayMissing
from ohlcv_assets.storage.bars_file import BROKEN_PARQUET, corrupt
from ohlcv_assets.storage.store_errors import unavailable
from ohlcv_assets.storage.symbol_sums import SUMMED, SUMS_KEY, Run, damage, parse_sums, runs
from ohlcv_assets.timestamps import DAY_MS, day_start_ms

_THREADS = 8
#: Two parts at a time: while one of them is compared, or waits for a file, polars reads the other.
_AT_A_TIME, _MOST_PARTS, _LEAST_FILES = 2, 4, 8
_Sums = Mapping[str, Mapping[str, int]]


@dataclass(frozen=True)
class DaySource:
    """Where a UTC day's file lies, and how it is read whole with its content hash compared."""

    day: date
    location: str
    whole: Callable[[], pl.DataFrame]

    @property
    def number(self) -> int:
        """The day, counted from 1970-01-01."""
        return day_start_ms(self.day) // DAY_MS


@dataclass(frozen=True)
class Wanted:
    """What is read: the market is not read but set, since it is one of the whole file."""

    market: str
    symbols: frozenset[str] | None
    columns: tuple[str, ...]

    @property
    def numbers(self) -> list[str]:
        """The columns to read and prove, beside the symbol: the timestamp tells rows and days apart."""
        return ["timestamp", *(name for name in self.columns if name in SUMMED and name != "timestamp")]

    @property
    def read(self) -> list[str]:
        """The columns of what was read, before those that were asked for are taken from it."""
        return ["symbol", *self.numbers]


def read_days(sources: Sequence[DaySource], wanted: Wanted, options: Mapping[str, Any]) -> pl.DataFrame:
    """The bars of these days, in the columns that are wanted, sorted by (symbol, timestamp).

    Args:
        sources: the days, in order, each once.
        wanted: which symbols (None: all) and which columns of `SCHEMA`; a symbol that a day does not hold gives no rows.
        options: what polars must be told to reach the locations.

    Raises:
        DayMissing: names every day that is not there.
        CorruptFile: a value that was read is not what was written.
        LakeUnavailable: the store does not answer.
    """
    try:
        frame = _read(sources, wanted, options)
    except CorruptFile:
        frame = pl.concat([_read_alone(source, wanted, options) for source in sources]).sort("symbol", "timestamp")
    return frame.select(pl.lit(wanted.market).alias(name) if name == "market" else name for name in wanted.columns)


def _read_alone(source: DaySource, wanted: Wanted, options: Mapping[str, Any]) -> pl.DataFrame:
    """A day that was replaced between the reading of its sums and of its rows looks damaged: in one piece, it tells."""
    try:
        return _read([source], wanted, options)
    except CorruptFile:
        return _whole(source, wanted)


def _read(sources: Sequence[DaySource], wanted: Wanted, options: Mapping[str, Any]) -> pl.DataFrame:
    sums: dict[int, _Sums | None] = {}
    with ThreadPoolExecutor(_AT_A_TIME) as threads:
        started = []
        for part in _parts(sources):
            found = _sums_of(part, wanted, options)
            sums |= found
            if proved := [source for source in part if found.get(source.number) is not None]:
                started.append(threads.submit(_proved, proved, found, wanted, options))
        if missing := [source for source in sources if source.number not in sums]:
            raise missing_days(_locations(missing))
        read = [part.result() for part in started]
    old = [_whole(source, wanted) for source in sources if sums[source.number] is None]
    nothing = pl.DataFrame(schema={name: SCHEMA[name] for name in wanted.read})
    frame = _by_symbol([nothing, *(frame for frame, _ in read)], [[], *(found for _, found in read)])
    return pl.concat([frame, *old]).sort("symbol", "timestamp") if old else frame


def _parts(sources: Sequence[DaySource]) -> list[Sequence[DaySource]]:
    size = max(_LEAST_FILES, -(-len(sources) // _MOST_PARTS))
    return [sources[first : first + size] for first in range(0, len(sources), size)]


def _locations(sources: Sequence[DaySource]) -> list[str]:
    return [source.location for source in sources]


def _sums_of(sources: Sequence[DaySource], wanted: Wanted, options: Mapping[str, Any]) -> dict[int, _Sums | None]:
    """By the day's number the sums of each file that is there; None of a file from before there were any."""
    if any("://" in source.location for source in sources):
        with ThreadPoolExecutor(_THREADS) as threads:
            found = list(threads.map(lambda source: _metadata(source.location, options), sources))
    else:  # a tenth of a millisecond each: threads would take three times as long
        found = [_metadata(source.location, options) for source in sources]
    there = ((source, noted) for source, noted in zip(sources, found, strict=True) if noted is not None)
    return {source.number: _parsed(source, noted, wanted) for source, noted in there}


def _metadata(location: str, options: Mapping[str, Any]) -> dict[str, str] | None:
    try:
        return pl.read_parquet_metadata(location, storage_options=dict(options), credential_provider=None)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise unavailable(location, error) from error
    except BROKEN_PARQUET as error:
        raise corrupt(location, str(error).splitlines()[0]) from error


def _parsed(source: DaySource, noted: Mapping[str, str], wanted: Wanted) -> _Sums | None:
    if SUMS_KEY not in noted:
        return None
    try:
        return parse_sums(noted[SUMS_KEY], wanted.symbols)
    except ValueError as error:
        raise corrupt(source.location, str(error)) from error


def _scan(locations: Sequence[str], wanted: Wanted, options: Mapping[str, Any]) -> pl.LazyFrame:
    # Explicit paths: a scanned folder would take in what was replaced, and the debris of killed writers.
    scan = pl.scan_parquet(
        list(locations), glob=False, hive_partitioning=False, storage_options=dict(options), credential_provider=None
    )
    if wanted.symbols is not None:
        scan = scan.filter(pl.col("symbol").is_in(sorted(wanted.symbols)))
    return scan.select(wanted.read)


def _proved(
    sources: Sequence[DaySource], sums: Mapping[int, _Sums | None], wanted: Wanted, options: Mapping[str, Any]
) -> tuple[pl.DataFrame, list[Run]]:
    """The rows and their runs, when they are what was written."""
    frame = _scanned(_locations(sources), wanted, options)
    found = runs(frame)
    wrong = damage(frame, found, {source.number: sums[source.number] or {} for source in sources})
    if wrong is None:
        return frame, found
    location = next(source.location for source in sources if source.number == wrong[0])
    raise corrupt(location, f"{wrong[1]} is not what was written")


def _scanned(locations: Sequence[str], wanted: Wanted, options: Mapping[str, Any]) -> pl.DataFrame:
    try:
        # In one piece: only so are the columns' bytes at hand without another copy.
        return _whole_columns(_scan(locations, wanted, options).collect()).rechunk()
    except FileNotFoundError as error:
        raise missing_days([str(error)]) from error
    except OSError as error:
        raise unavailable(locations[0], error) from error
    except BROKEN_PARQUET as error:
        raise corrupt(_blamed(locations, wanted, options), str(error).splitlines()[0]) from error


def _whole_columns(frame: pl.DataFrame) -> pl.DataFrame:
    """The frame itself: of a file with one wrong bit polars has made columns of different lengths."""
    for column in frame.get_columns():
        if column.len() != frame.height or column.has_nulls() or column.dtype != SCHEMA[column.name]:
            raise ValueError(f"the column {column.name} is not what was written")
    return frame


def _blamed(locations: Sequence[str], wanted: Wanted, options: Mapping[str, Any]) -> str:
    """Which of the files cannot be read: a scan over many does not say."""
    for location in locations:
        try:
            _whole_columns(_scan([location], wanted, options).collect())
        except BROKEN_PARQUET:
            return location
    return f"{locations[0]} to {locations[-1]}"


def _whole(source: DaySource, wanted: Wanted) -> pl.DataFrame:
    frame = source.whole()
    if wanted.symbols is not None:
        frame = frame.filter(pl.col("symbol").is_in(sorted(wanted.symbols)))
    return frame.select(wanted.read)


def _by_symbol(frames: Sequence[pl.DataFrame], found: Sequence[Sequence[Run]]) -> pl.DataFrame:
    """Days one after the other, each by symbol and time, to symbols one after the other: slices, since a sort takes longer."""
    pieces: dict[str, list[pl.DataFrame]] = {}
    for frame, runs_of_frame in zip(frames, found, strict=True):
        for run in runs_of_frame:
            pieces.setdefault(run.symbol, []).append(frame.slice(run.first, run.last - run.first))
    if len(pieces) < 2 or len({run.day for runs_of_frame in found for run in runs_of_frame}) < 2:  # it is in order
        return pl.concat(frames)
    return pl.concat([piece for symbol in sorted(pieces) for piece in pieces[symbol]], rechunk=True)


def missing_days(locations: Sequence[str]) -> DayMissing:
    """The error of days that are not in the lake."""
    more = f" and {len(locations) - 1} more" if len(locations) > 1 else ""
    return DayMissing(
        f"{locations[0]}{more} not in the lake", hint="materialize daily_bars of that day, or ohlcv download-bulk"
    )
