"""Reading of a file that another process may replace meanwhile: the one content or the other, never half of each.

Lives here: reading by polars, which opens a file by its name more than once, for its footer and for its rows. Does not: the proof of
what was read (day_reader.py), or what the rows mean (lake.py). A replaced file keeps its name: what belongs to the footer of the one
may be read from the rows of the other, which is an error at best. So the store is asked before and after whether the name still
means the same object. Where it does not, the object is fetched in one piece, as the store gives it, and read from memory.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeVar

import polars as pl
from polars.io.plugins import register_io_source

from ohlcv_assets.bars import SCHEMA
from ohlcv_assets.errors import CorruptFile, DayMissing, LakeUnavailable
from ohlcv_assets.storage.bars_file import BROKEN_PARQUET, corrupt
from ohlcv_assets.storage.day_reader import missing_days
from ohlcv_assets.storage.objects import ObjectStore
from ohlcv_assets.storage.store_errors import unavailable

_T = TypeVar("_T")
#: Where a file's bytes are: its location, or the bytes themselves; and what polars must be told to get them.
Source = str | io.BytesIO
Read = Callable[[Source, dict[str, Any]], _T]
Query = Callable[[pl.LazyFrame], pl.LazyFrame]
_Heads = dict[str, tuple[str, int] | None]
#: Of files together: a day of 400 symbols, or two months of 20.
_MOST_BYTES = 32 * 1024 * 1024
_THREADS = 8


def steadily(store: ObjectStore, key: str, read: Read[_T]) -> _T:
    """What `read` makes of an object, all of it of one and the same content.

    Args:
        store: where the object is.
        key: of the object, a Parquet file.
        read: reads the file from where it is told; called again when the object was replaced meanwhile.

    Raises:
        DayMissing: there is no such object.
        CorruptFile: it cannot be read, and nobody has replaced it.
        LakeUnavailable: the store does not answer.
    """
    before, location = store.head(key), store.location(key)
    if before is None:
        raise missing_days([location])
    try:
        with polars_errors(location):
            answer = read(location, _options(store))
    except (CorruptFile, DayMissing, LakeUnavailable):
        if store.head(key) == before:
            raise
    else:
        if store.head(key) == before:
            return answer
    stored = store.get(key)
    if stored is None:
        raise missing_days([location])
    with polars_errors(location):
        return read(io.BytesIO(stored.content), {})


def queried(store: ObjectStore, key: str, query: Query) -> pl.DataFrame:
    """What a query of a day's file gives: filters and columns are pushed down to the file. Raises what `steadily` does."""
    return steadily(store, key, lambda source, options: query(_scan(source, options)).collect())


def scanned(store: ObjectStore, keys: Sequence[str]) -> pl.LazyFrame:
    """The rows of these day files (`SCHEMA`), one after the other, read when collected, and anew each time.

    Filters, columns and a limit of the query are pushed down to the files.
    """

    def frames(
        columns: list[str] | None, predicate: pl.Expr | None, limit: int | None, _: int | None
    ) -> Iterator[pl.DataFrame]:
        def query(scan: pl.LazyFrame) -> pl.LazyFrame:
            kept = scan if predicate is None else scan.filter(predicate)
            return kept if columns is None else kept.select(columns)

        left = limit
        for frame in (frame for some in _at_once(store, keys) for frame in _read(store, some, query)):
            yield frame if left is None else frame.head(left)
            left = None if left is None else left - frame.height
            if left is not None and left <= 0:
                return

    return register_io_source(frames, schema=SCHEMA, is_pure=True, explain_name="DAYS OF THE LAKE")


def _at_once(store: ObjectStore, keys: Sequence[str]) -> Iterator[_Heads]:
    """The files in parts that are read together, none of which is large, with what the store says of each before it is read."""
    part: _Heads = {}
    held = 0
    for key, head in _heads(store, keys).items():
        size = 0 if head is None else head[1]
        if part and held + size > _MOST_BYTES:
            yield part
            part, held = {}, 0
        part[key], held = head, held + size
    yield part


def _heads(store: ObjectStore, keys: Iterable[str]) -> _Heads:
    names = list(keys)
    if "://" not in store.location(names[0]):
        return {key: store.head(key) for key in names}
    with ThreadPoolExecutor(_THREADS) as threads:
        return dict(zip(names, threads.map(store.head, names), strict=True))


def _read(store: ObjectStore, some: _Heads, query: Query) -> Iterator[pl.DataFrame]:
    """What the query gives of files that are read together; one by one where one of them was replaced, or cannot be read."""
    locations = [store.location(key) for key in some]
    try:
        frame = query(_scan(locations, _options(store))).collect()
    except BROKEN_PARQUET:
        frame = None
    if frame is not None and _heads(store, some) == some:
        yield frame
        return
    for key in some:
        yield _blamed(store, key, query)


def _blamed(store: ObjectStore, key: str, query: Query) -> pl.DataFrame:
    """What the query gives; an error of the query itself, which others wrote, is not put down to the file."""
    try:
        return queried(store, key, query)
    except CorruptFile as error:
        queried(store, key, lambda scan: scan)
        raise (error.__cause__ or error) from error


def _options(store: ObjectStore) -> dict[str, Any]:
    # Both readers take the environment's credentials, neither asks boto3.
    return {"storage_options": store.scan_options(), "credential_provider": None}


def _scan(source: Source | list[str], options: dict[str, Any]) -> pl.LazyFrame:
    # Explicit paths: a scanned folder would take in what was replaced, and the debris of killed writers.
    return pl.scan_parquet(source, glob=False, hive_partitioning=False, **options)


@contextmanager
def polars_errors(location: str) -> Iterator[None]:
    """What polars raises when it reads a file of the lake by itself becomes ours."""
    try:
        yield
    except FileNotFoundError as error:
        raise missing_days([location]) from error
    except OSError as error:
        raise unavailable(location, error) from error
    except BROKEN_PARQUET as error:
        raise corrupt(location, str(error).splitlines()[0]) from error
