"""The forms in which a frame leaves the program: a table, CSV, JSON lines or Parquet; to a file or to standard output.

Lives here: each format, written part after part, and a file that is there whole or not at all. Does not: what is in the frame.
CSV and JSON lines write times as ISO 8601 and numbers so that reading them gives the same numbers.
"""

from __future__ import annotations

import os
import stat
import sys
from collections import deque
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final

from ohlcv_assets.cli.output import answer

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    import polars as pl

TABLE: Final = "table"
FORMATS: Final = (TABLE, "csv", "jsonl", "parquet")
#: A table shows so many rows of the beginning, and of the end, when there are more than twice as many.
_SHOWN = 15
#: So many rows are made into text at once, so that who reads a pipe has the first ones soon.
_WRITTEN = 50_000


def format_of(asked: str | None, output: Path | None) -> str:
    """The format that is meant: the one asked for, or what the end of the file's name says; a table where neither does.

    Raises:
        UsageError: no such format, or Parquet without a file.
    """
    from ohlcv_assets.errors import UsageError

    named = None if output is None else output.suffix.removeprefix(".").lower()
    chosen = asked or (named if named in FORMATS else None) or (TABLE if output is None else "")
    if chosen not in FORMATS:
        given = f"{asked!r} is no format" if asked else f"{output} does not say which format"
        raise UsageError(given, hint=f"use --format {', '.join(FORMATS[:-1])} or {FORMATS[-1]}")
    if chosen == "parquet" and output is None:
        raise UsageError("Parquet is for a file", hint="add --output bars.parquet")
    return chosen


def written(parts: Iterable[pl.DataFrame], chosen: str, output: Path | None) -> int:
    """Write the parts, which have the same columns, one after another; how many rows there were.

    Args:
        parts: at least one.
        chosen: one of `FORMATS`.
        output: where to (see `whole_file`); None: standard output.
    """
    write = {TABLE: _table, "csv": _csv, "jsonl": _jsonl, "parquet": _parquet}[chosen]
    if output is None:
        sys.stdout.flush()
        file = answer()
        rows = write(parts, file)
        file.flush()
        return rows
    with whole_file(output) as file:
        rows = write(parts, file)
    print(f"{rows:,} rows in {output}", file=sys.stderr)
    return rows


@contextmanager
def whole_file(path: Path) -> Iterator[IO[bytes]]:
    """A file to write to that is put to its place when all of it is written; after an error nothing has changed there.

    A link stays, and what it leads to is replaced. What is no file, as a device or a pipe, and a descriptor, as /dev/stdout, cannot be
    replaced: it is written to as it stands.

    Raises:
        UsageError: nothing can be written there.
        Refused: not all of it could be written.
    """
    from ohlcv_assets.errors import Refused

    try:
        with _as_it_stands(path) or _replaced(path) as file:
            yield file
    except OSError as error:
        raise Refused(f"{path} cannot be written: {error.strerror or error}", hint="give another --output") from error


@contextmanager
def _replaced(path: Path) -> Iterator[IO[bytes]]:
    place = path.resolve()
    draft = place.with_name(f".{place.name}.{os.getpid()}.part")
    with _opening(path):
        file = draft.open("wb")
    try:
        with file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        draft.replace(place)
    finally:
        draft.unlink(missing_ok=True)


def _as_it_stands(path: Path) -> IO[bytes] | None:
    """What cannot be replaced, opened; None where there is a file, or nothing."""
    with _opening(path):
        try:
            mode = path.stat().st_mode
        except FileNotFoundError:
            return None
        if (descriptor := _descriptor(path)) is not None:
            sys.stdout.flush()
            return os.fdopen(os.dup(descriptor), "wb")
        return None if stat.S_ISREG(mode) else path.open("wb")


def _descriptor(path: Path) -> int | None:
    """Which descriptor of this process the name leads to: of a file behind it, others may have written the beginning."""
    ours = (Path("/dev/fd").resolve(), Path("/proc/self/fd").resolve())
    while path.parent.resolve() not in ours:
        if not path.is_symlink():
            return None
        path = path.parent / path.readlink()
    return int(path.name)


@contextmanager
def _opening(path: Path) -> Iterator[None]:
    from ohlcv_assets.errors import UsageError

    try:
        yield
    except OSError as error:
        raise UsageError(f"{path} cannot be written: {error.strerror}", hint="give another --output") from error


def _csv(parts: Iterable[pl.DataFrame], file: IO[bytes]) -> int:
    rows = 0
    for part in parts:
        for some in _timed(part).iter_slices(_WRITTEN):
            file.write(some.write_csv(include_header=not rows).encode())
            rows += some.height
    return rows


def _jsonl(parts: Iterable[pl.DataFrame], file: IO[bytes]) -> int:
    rows = 0
    for part in parts:
        for some in _timed(part).iter_slices(_WRITTEN):
            file.write(some.write_ndjson().encode())
            rows += some.height
    return rows


def _parquet(parts: Iterable[pl.DataFrame], file: IO[bytes]) -> int:
    import polars as pl
    from pyarrow.parquet import ParquetWriter

    rows, writer = 0, None
    try:
        for part in parts:
            arrow = part.to_arrow(compat_level=pl.CompatLevel.oldest())
            writer = writer or ParquetWriter(file, arrow.schema, compression="zstd")
            writer.write_table(arrow)
            rows += part.height
    finally:
        if writer is not None:
            writer.close()
    return rows


def _table(parts: Iterable[pl.DataFrame], file: IO[bytes]) -> int:
    from ohlcv_assets.cli.universe_tables import show_table

    columns: list[str] = []
    head: list[list[str]] = []
    tail: deque[list[str]] = deque(maxlen=_SHOWN)
    rows = 0
    for part in parts:
        columns = part.columns
        wanted = max(0, 2 * _SHOWN - rows)
        head += _cells(part.head(wanted))
        tail.extend(_cells(part.tail(_SHOWN)))
        rows += part.height
    if rows > 2 * _SHOWN:
        head = [*head[:_SHOWN], ["..."] * len(columns), *tail]
    show_table(columns, head)
    if rows > 2 * _SHOWN:
        print(f"{rows:,} rows; --format csv or --output has all of them")
    return rows


def _cells(part: pl.DataFrame) -> list[list[str]]:
    return [["" if value is None else _text(value) for value in row] for row in _timed(part).iter_rows()]


def _text(value: Any) -> str:
    return f"{value:.12g}" if isinstance(value, float) else str(value)


def _timed(part: pl.DataFrame) -> pl.DataFrame:
    """The same with each time as ISO 8601, in the precision that it has, and days as days."""
    import polars as pl

    texts = []
    for name, dtype in part.schema.items():
        if isinstance(dtype, pl.Datetime):
            fraction = {"ms": "", "us": "%.6f", "ns": "%.9f"}[dtype.time_unit]
            texts.append(pl.col(name).dt.strftime(f"%Y-%m-%dT%H:%M:%S{fraction}Z").alias(name))
    return part.with_columns(texts)
