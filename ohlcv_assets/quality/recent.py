"""The hour so far by REST: ten-minute windows in a place of their own, for the QA that runs while the hour does.

Lives here: which windows of an hour are due, and where each is kept. Does not: fetching them (capture.py), or the
comparison (verdict.py). The windows are contiguous, so that every minute is checked, and each is fetched five minutes after
its end, when the exchange has settled its last corrections. They are kept under `qa/`, apart from the daily bars: a
second witness must not be fed by the first.
"""

from __future__ import annotations

import io
from collections.abc import Iterator

import polars as pl

from ohlcv_assets.bars import SCHEMA
from ohlcv_assets.clock import utc_now
from ohlcv_assets.errors import ObjectMissing
from ohlcv_assets.instruments import Market, Universe
from ohlcv_assets.storage.lake import Lake
from ohlcv_assets.timestamps import MINUTE_MS, Interval, from_ms

WINDOW_MS = 10 * MINUTE_MS
#: A window is fetched so long after its end.
SETTLE_MS = 5 * MINUTE_MS


def due_windows(hour: Interval, now_ms: int) -> list[Interval]:
    """The windows of an hour that ended at least five minutes ago, in order.

    Args:
        hour: a whole hour.
        now_ms: the exchange's time, UNIX milliseconds.
    """
    return [window for window in hour.split(WINDOW_MS) if window.end_ms + SETTLE_MS <= now_ms]


class RecentBars:
    """The windows of one market and universe in the lake."""

    def __init__(self, lake: Lake, market: Market, universe: Universe) -> None:
        self._lake = lake
        self._folder = f"qa/recent_bars/{market}/{universe.path_form}"

    def missing(self, windows: list[Interval]) -> list[Interval]:
        """Those of the windows that were not fetched yet."""
        return [window for window in windows if self._read(window) is None]

    def write(self, window: Interval, captured: pl.DataFrame) -> int:
        """Keep a window's bars (`CAPTURED_SCHEMA`), once; returns the size in bytes."""
        bars = captured.with_columns(
            pl.lit(utc_now()).cast(SCHEMA["knowledge_timestamp"]).alias("knowledge_timestamp")
        )
        content = io.BytesIO()
        bars.select(list(SCHEMA)).write_parquet(content, compression="zstd", compression_level=3)
        self._lake.put(self._key(window), content.getvalue())
        return len(content.getvalue())

    def read(self, windows: list[Interval]) -> tuple[pl.DataFrame, list[Interval]]:
        """The bars of those windows that are there (`SCHEMA`, sorted), and which windows these are."""
        found = list(self._found(windows))
        frames = [frame for _, frame in found] or [pl.DataFrame(schema=SCHEMA)]
        return pl.concat(frames).sort("symbol", "timestamp"), [window for window, _ in found]

    def _found(self, windows: list[Interval]) -> Iterator[tuple[Interval, pl.DataFrame]]:
        for window in windows:
            frame = self._read(window)
            if frame is not None:
                yield window, frame

    def _read(self, window: Interval) -> pl.DataFrame | None:
        try:
            return pl.read_parquet(io.BytesIO(self._lake.get(self._key(window))))
        except ObjectMissing:
            return None

    def _key(self, window: Interval) -> str:
        start = from_ms(window.start_ms)
        return f"{self._folder}/date={start:%Y-%m-%d}/{start:%H%M}.parquet"
