"""Bytes a bar on disk: a day's file of ours, the predecessor's layout, and CSV.

Lives here: the same bars written each way, and the table. Does not: any format of ours (storage/bars_file.py).

Recorded bars of Binance where they are beside the checkout (or where OHLCV_TEST_DATA says), generated ones always. Ours holds
fourteen columns, two of them times of capture, and a check sum for every symbol and column; the predecessor's holds eight.
"""

from __future__ import annotations

import gzip
import os
import tempfile
from collections.abc import Iterator
from datetime import UTC, date, datetime
from pathlib import Path

import polars as pl

from benchmarks.common import markdown_table, require
from benchmarks.qa import day_of_bars
from benchmarks.reads import write_predecessors
from ohlcv_assets.bars import CAPTURED_SCHEMA, KEY, VALUES
from ohlcv_assets.clock import utc_now
from ohlcv_assets.instruments import Market
from ohlcv_assets.replay.truth import load_truth
from ohlcv_assets.storage.bars_file import canonical, decode, encode
from ohlcv_assets.timestamps import DAY_MS, from_ms

TITLE = "Bytes a bar"
_BESIDE_THE_CHECKOUT = Path(__file__).resolve().parents[2] / "shared" / "data"
#: The recordings that are measured where they are: their market, and what the table calls them.
RECORDED = {
    "um_vision_1m_FIL_NEAR_2025-06-01_03.parquet": (Market.FUTURES, "recorded, futures, 2 symbols x 3 days, all columns"),
    "um_rest_1m_2025-05-25_2025-06-03_A.parquet": (Market.FUTURES, "recorded, futures, 16 symbols x 10 days, four columns derived"),
    "spot_rest_1m_40sym_2021-04-20_2021-04-25.parquet": (Market.SPOT, "recorded, spot, 40 symbols x 6 days, four columns derived"),
}  # fmt: skip


def run(symbols: int = 24) -> Iterator[str]:
    """The section: lines of Markdown."""
    head = ("which bars", "bars", "ours: Parquet, 14 columns", "predecessor's: Parquet, 8 columns", "CSV, 14 columns", "the same, gzip")  # fmt: skip
    yield from markdown_table(head, (_row(name, bars) for name, bars in sets(symbols)))
    yield ""
    yield "Bytes of all files, divided by the bars. *Derived* are quote volume, trades and the taker's parts of a recording that lacks them."


def sets(symbols: int) -> Iterator[tuple[str, pl.DataFrame]]:
    """What is written: the recordings that are there, and a generated day of so many symbols."""
    folder = Path(os.environ.get("OHLCV_TEST_DATA", _BESIDE_THE_CHECKOUT)) / "klines"
    for name, (market, title) in RECORDED.items():
        if (folder / name).is_file():
            yield title, _captured(load_truth(folder / name, market)[market])
    yield f"generated, {symbols} symbols x 1 day", day_of_bars(symbols)


def _captured(truth: pl.DataFrame) -> pl.DataFrame:
    """The recorded bars as a download leaves them: each page of a symbol's day entered at a moment of its own."""
    day = pl.col("timestamp") // DAY_MS
    entered = pl.lit(datetime(2025, 6, 4, 4, tzinfo=UTC), pl.Datetime("us", "UTC"))
    page = (pl.col("timestamp") % DAY_MS) // (480 * 60_000) + 3 * pl.col("symbol").rank("dense") + 300 * day
    moment = entered + pl.duration(microseconds=page.cast(pl.Int64) * 104_729)
    return truth.select(*KEY, *VALUES, moment.alias("end_download_timestamp")).select(list(CAPTURED_SCHEMA))


def _row(name: str, bars: pl.DataFrame) -> tuple[object, ...]:
    ours = csv = packed = 0
    with tempfile.TemporaryDirectory(prefix="ohlcv-bench-") as place:
        for day, own in _by_day(bars):
            known = canonical(own).with_columns(knowledge_timestamp=pl.lit(utc_now(), pl.Datetime("us", "UTC")))
            content, text = encode(known), known.write_csv().encode()
            require(decode(content, name).bars.equals(known), f"{name}, {day}")
            ours, csv, packed = ours + len(content), csv + len(text), packed + len(gzip.compress(text, 6))
        last = from_ms(int(bars["timestamp"].max() or 0)).date()  # type: ignore[arg-type]
        write_predecessors(bars, Path(place), last)
        theirs = sum(file.stat().st_size for file in Path(place).rglob("*.parquet"))
    return name, bars.height, *(f"{size / bars.height:.1f}" for size in (ours, theirs, csv, packed))


def _by_day(bars: pl.DataFrame) -> Iterator[tuple[date, pl.DataFrame]]:
    for (number,), own in bars.group_by(pl.col("timestamp") // DAY_MS, maintain_order=True):
        yield from_ms(int(str(number)) * DAY_MS).date(), own
