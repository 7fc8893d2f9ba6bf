"""The file of a day: a frame of bars to Parquet bytes that prove their own content, and back.

Lives here: the canonical order, the content hash, the Parquet settings, the file's key-value metadata, and the
verification of what was read. Does not: where the bytes lie (storage/objects.py) or under which key (storage/lake.py).

Rows are sorted by (symbol, timestamp), which compresses best and lets a reader of some symbols skip the other row
groups. A group is eight whole symbols, and each of them lies in pages of its own, which a reader of another one does not
decompress. What is written beside the values is kept short: times as differences, and statistics of the two columns alone by
which readers skip. Measured in docs/decisions/0010.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl

from ohlcv_assets.bars import CAPTURED_SCHEMA, KEY, SCHEMA, VALUES, validate
from ohlcv_assets.errors import CorruptFile, InvalidBars
from ohlcv_assets.storage.symbol_sums import SUMS_KEY, symbol_sums
from ohlcv_assets.timestamps import iso

SCHEMA_VERSION = "1"
GROUP_SYMBOLS = 8
PAGE_ROWS = 1_440
_ORDER = ("symbol", "timestamp")
_STORE_COLUMNS = ("end_download_timestamp", "knowledge_timestamp")
_SCHEMA_KEY, _CONTENT_KEY = "ohlcv.schema_version", "ohlcv.content_hash"
_STORE_KEY, _UNIVERSE_KEY = "ohlcv.store_hash", "ohlcv.universe_hash"
#: A page ends with the batch after which it is full: eight bytes a row, and a symbol's day of minutes.
_WRITTEN_AS: dict[str, Any] = {
    "compression": "zstd",
    "compression_level": 9,
    "data_page_size": 8 * PAGE_ROWS,
    "write_batch_size": PAGE_ROWS,
    "column_encoding": {"timestamp": "DELTA_BINARY_PACKED"},
    "use_dictionary": ["market", "symbol", "trade_count", *_STORE_COLUMNS],
    "write_statistics": list(_ORDER),
    "store_schema": False,
}
#: What polars raises for bytes that are no Parquet or no longer one; a panic is its word for the unforeseen.
BROKEN_PARQUET = (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError, ValueError)


@dataclass(frozen=True)
class DayFile:
    """A file that was read and verified: its bars (`SCHEMA`, sorted by symbol and timestamp) and their hash."""

    bars: pl.DataFrame
    content_hash: str


def canonical(bars: pl.DataFrame) -> pl.DataFrame:
    """The captured bars as they are stored: checked, `CAPTURED_SCHEMA`, sorted by (symbol, timestamp).

    Raises:
        InvalidBars: no bars at all, a broken invariant, no `end_download_timestamp`, or two bars of one key.
    """
    frame = validate(bars)
    if frame.is_empty():
        raise InvalidBars("there are no bars to store", hint="an empty answer is no evidence of absence: fetch again")
    if "end_download_timestamp" not in frame.columns or frame["end_download_timestamp"].has_nulls():
        raise InvalidBars("bars without end_download_timestamp", hint="say when each bar entered this process")
    frame = frame.select(list(CAPTURED_SCHEMA)).sort(_ORDER)
    twice = frame.filter(pl.struct(KEY).is_duplicated())
    if not twice.is_empty():
        first = f"{twice['symbol'][0]} {iso(twice['timestamp'][0])}"
        raise InvalidBars(
            f"{twice.height} of {frame.height} bars share their key with another, the first is {first}",
            hint="a bar is stored once: drop the copies, or find out which one is true",
        )
    return frame


def content_hash(frame: pl.DataFrame) -> str:
    """sha256 of what the exchange said: key and value columns in canonical order, `sha256:` and 64 hex digits.

    When the bars were downloaded and stored is no part of it: two captures of the same day have the same hash exactly
    when they match (quality/match.py), and like there 0.0 and -0.0 are the same number.

    Args:
        frame: bars sorted by (symbol, timestamp), without null.
    """
    return _hash(frame, (*KEY, *VALUES))


def encode(frame: pl.DataFrame, *, universe_hash: str | None = None) -> bytes:
    """The Parquet file of canonical bars with a knowledge_timestamp (`SCHEMA`)."""
    metadata = {
        _SCHEMA_KEY: SCHEMA_VERSION,
        _CONTENT_KEY: content_hash(frame),
        _STORE_KEY: _hash(frame, _STORE_COLUMNS),
        SUMS_KEY: symbol_sums(frame),
    }
    if universe_hash is not None:
        metadata[_UNIVERSE_KEY] = universe_hash
    return _parquet(frame.select(list(SCHEMA)), metadata)


def _parquet(frame: pl.DataFrame, metadata: Mapping[str, str]) -> bytes:
    # pyarrow is imported here and not above: it writes pages and encodings as they are told, and a reader need not wait for it.
    from pyarrow.parquet import ParquetWriter

    table = frame.to_arrow(compat_level=pl.CompatLevel.oldest())
    rows_of_symbols = frame["symbol"].rle().struct.field("len").to_list()
    buffer, first = io.BytesIO(), 0
    with ParquetWriter(buffer, table.schema, **_WRITTEN_AS) as writer:
        for at in range(0, len(rows_of_symbols), GROUP_SYMBOLS):
            rows = sum(rows_of_symbols[at : at + GROUP_SYMBOLS])
            writer.write_table(table.slice(first, rows), row_group_size=rows)
            first += rows
        writer.add_key_value_metadata(metadata)
    return buffer.getvalue()


def decode(content: bytes, location: str) -> DayFile:
    """The bars of a file, after every column was compared with the hashes that it was written with.

    Raises:
        CorruptFile: names the location.
    """
    try:
        frame, metadata = _parsed(content)
    except (*BROKEN_PARQUET, MemoryError) as error:
        raise corrupt(location, f"no readable Parquet file: {str(error).splitlines()[0]}") from error
    if dict(frame.schema) != SCHEMA:
        raise corrupt(location, f"schema {dict(frame.schema)} of version {metadata.get(_SCHEMA_KEY)}")
    if any(frame[name].has_nulls() for name in frame.columns):
        raise corrupt(location, "a null")
    digest = content_hash(frame)
    if (metadata.get(_CONTENT_KEY), metadata.get(_STORE_KEY)) != (digest, _hash(frame, _STORE_COLUMNS)):
        raise corrupt(location, f"content {digest}, written as {metadata.get(_CONTENT_KEY)}")
    return DayFile(frame, digest)


def _parsed(content: bytes) -> tuple[pl.DataFrame, Mapping[str, str]]:
    """The rows and the notes of a file, by pyarrow: of some damaged bytes polars ends the whole process (allocation, panic)."""
    from pyarrow import BufferReader
    from pyarrow.parquet import ParquetFile

    file = ParquetFile(BufferReader(content))
    table = file.read()
    table.validate(full=True)  # its texts are UTF-8, too
    return pl.DataFrame(table), {
        name.decode(): note.decode() for name, note in (file.metadata.metadata or {}).items()
    }


def noted_content_hash(metadata: Mapping[str, str], location: str) -> str:
    """The content hash that a file's key-value metadata note, or `CorruptFile`."""
    noted = metadata.get(_CONTENT_KEY)
    if noted is None:
        raise corrupt(location, "it notes no content hash")
    return noted


def corrupt(location: str, what: str) -> CorruptFile:
    """The error of a file whose content is not what was written."""
    return CorruptFile(
        f"{location} is damaged: {what}",
        hint="fetch the day again: `replace: true` in the launchpad, ohlcv verify --day DAY --accept, or write_day(replace=True); "
        "the damaged file is kept beside it",
    )


def _hash(frame: pl.DataFrame, names: Sequence[str]) -> str:
    digest = hashlib.sha256(f"ohlcv bars {SCHEMA_VERSION}, {frame.height} rows\n".encode())
    for name in names:
        digest.update(f"{name}\n".encode())
        digest.update(_column_bytes(frame[name]))
    return f"sha256:{digest.hexdigest()}"


def _column_bytes(column: pl.Series) -> bytes:
    """Bytes that are the same on every machine and in every version: little-endian numbers, text as JSON runs."""
    if column.dtype == pl.String:
        runs = column.rle().struct.unnest()
        return json.dumps([runs["value"].to_list(), runs["len"].to_list()]).encode()
    if column.dtype == pl.Float64:
        # -0.0 + 0.0 is 0.0 in numpy; polars leaves out the addition of zero.
        return (column.to_numpy() + 0.0).astype("<f8").tobytes()
    return column.to_physical().to_numpy().astype("<i8").tobytes()
