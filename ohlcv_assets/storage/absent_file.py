"""The file beside a day's bars that says which minutes are not among them, and why.

Lives here: its columns, its bytes and their check. Does not: where it lies (lake.py), or who finds out (capture.py).
"""

from __future__ import annotations

import io

import polars as pl

from ohlcv_assets.errors import CorruptFile, InvalidBars
from ohlcv_assets.storage.bars_file import BROKEN_PARQUET
from ohlcv_assets.storage.frames import conformed
from ohlcv_assets.timestamps import MINUTE_MS, Interval, iso

ABSENT_FILE = "absent.parquet"
#: One row a minute that is known not to be there: `timestamp` is its start in UNIX milliseconds, `proof` JSON or null.
ABSENT_SCHEMA: dict[str, pl.DataType] = {
    "symbol": pl.String(),
    "timestamp": pl.Int64(),
    "cause": pl.String(),
    "proof": pl.String(),
}
_KEY = ("symbol", "timestamp")


def encode(absent: pl.DataFrame, interval: Interval) -> bytes:
    """The Parquet file of these rows (`ABSENT_SCHEMA`, any order), sorted by symbol and timestamp.

    Raises:
        InvalidBars: other columns, what is no minute of the interval, a minute twice, or one without a cause.
    """
    ready = conformed(absent, ABSENT_SCHEMA, "absent minutes").sort(_KEY)
    within = pl.col("timestamp").is_between(interval.start_ms, interval.end_ms, closed="left")
    on_grid = within & (pl.col("timestamp") % MINUTE_MS == 0)
    holds = pl.all_horizontal(on_grid, pl.struct(_KEY).is_unique(), pl.col("symbol", "cause").is_not_null())
    wrong = ready.filter(~holds.fill_null(value=False))
    if not wrong.is_empty():
        symbol, timestamp_ms = wrong.row(0)[:2]
        at = "null" if timestamp_ms is None else iso(timestamp_ms)
        raise InvalidBars(
            f"{wrong.height} of {ready.height} absent minutes cannot be kept, the first is {symbol} {at}",
            hint=f"name minutes of {interval}, each once and with its cause",
        )
    buffer = io.BytesIO()
    ready.write_parquet(buffer, compression="zstd")
    return buffer.getvalue()


def decode(content: bytes, location: str) -> pl.DataFrame:
    """The rows of the file, `ABSENT_SCHEMA`.

    Raises:
        CorruptFile: names the location.
    """
    try:
        absent = pl.read_parquet(io.BytesIO(content), hive_partitioning=False)
    except BROKEN_PARQUET as error:
        raise _corrupt(location, str(error).splitlines()[0]) from error
    if dict(absent.schema) != ABSENT_SCHEMA:
        raise _corrupt(location, f"schema {dict(absent.schema)}")
    return absent


def _corrupt(location: str, what: str) -> CorruptFile:
    return CorruptFile(f"{location} is damaged: {what}", hint="download the day again")
