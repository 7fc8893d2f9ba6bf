"""The hour so far by REST: ten-minute windows in a place of their own, for the QA that runs while the hour does.

Lives here: which windows of an hour are due, and where each is kept. Does not: fetching them (capture.py), or the
comparison (verdict.py). The windows are contiguous, so that every minute is checked, and each is fetched five minutes after
its end, when the exchange has settled its last corrections. They are kept under `qa/`, apart from the daily bars: a
second witness must not be fed by the first. A window that is repaired becomes a new version; the old one is kept beside it.

    qa/recent_bars/spot/v7_3/date=2025-06-01/2300.parquet                                          the window
    qa/recent_bars/spot/v7_3/date=2025-06-01/former/2300-20250601T231502.000001Z-0123456789ab.parquet   what it was before
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator
from datetime import datetime

import polars as pl

from ohlcv_assets.bars import KEY, SCHEMA
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
        return self._put(window, bars)

    def replace(self, window: Interval, changed: pl.DataFrame) -> str:
        """Put bars (`CAPTURED_SCHEMA`) in the place of the window's own, or beside them; the former file is kept.

        Returns:
            The key of the former file.

        Raises:
            ObjectMissing: the window was never fetched.
        """
        content = self._lake.get(self._key(window))
        former = pl.read_parquet(io.BytesIO(content))
        kept = self._former_key(window, former, hashlib.sha256(content).hexdigest()[:12])
        self._lake.put(kept, content)
        taken = changed.with_columns(pl.lit(utc_now(), SCHEMA["knowledge_timestamp"]).alias("knowledge_timestamp"))
        others = former.join(changed, on=KEY, how="anti")
        self._put(window, pl.concat([others, taken.select(list(SCHEMA))]).sort("symbol", "timestamp"))
        return kept

    def _former_key(self, window: Interval, former: pl.DataFrame, digest: str) -> str:
        """The same file always has the same name, so that keeping it twice keeps it once."""
        known = former["knowledge_timestamp"].max()
        when = f"{known:%Y%m%dT%H%M%S.%fZ}" if isinstance(known, datetime) else "empty"
        folder, _, file = self._key(window).rpartition("/")
        return f"{folder}/former/{file.removesuffix('.parquet')}-{when}-{digest}.parquet"

    def _put(self, window: Interval, bars: pl.DataFrame) -> int:
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
