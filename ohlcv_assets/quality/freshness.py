"""Whether what was streamed is fresh: is the newest bar there, is every symbol there, and how late did they come?

Lives here: three small measures of a set of captured bars. Does not: minutes that are missing (completeness.py), or what is
made of a measure (orchestration/checks.py). Latency is counted from a bar's end to the moment the database took it.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import polars as pl

from ohlcv_assets.bars import Channel
from ohlcv_assets.timestamps import MINUTE_MS, Interval, label_end, label_start


@dataclass(frozen=True)
class Freshness:
    """How far a set of bars reaches.

    Attributes:
        due_ms: start of the newest bar that was due, UNIX milliseconds.
        newest_ms: start of the newest bar that is there; None when there is none.
        symbols_behind: how many of the symbols that are there have no bar as new as the newest due.
    """

    due_ms: int
    newest_ms: int | None
    symbols_behind: int

    @property
    def is_fresh(self) -> bool:
        """Whether some symbol has the newest bar that was due."""
        return self.newest_ms is not None and self.newest_ms >= self.due_ms

    @property
    def minutes_behind(self) -> int | None:
        """How many minutes lie between the newest bar and the newest due; None when there is no bar."""
        return None if self.newest_ms is None else max(0, (self.due_ms - self.newest_ms) // MINUTE_MS)


def freshness(bars: pl.DataFrame, interval: Interval) -> Freshness:
    """How far the bars reach into an interval that is over.

    Args:
        bars: `symbol` and `timestamp` (UNIX ms, the bar's start).
        interval: the minutes that were due.
    """
    due_ms = label_start(interval.end_ms)
    newest = bars.group_by("symbol").agg(pl.col("timestamp").max())["timestamp"]
    newest_ms = newest.max()
    return Freshness(
        due_ms=due_ms,
        newest_ms=newest_ms if isinstance(newest_ms, int) else None,
        symbols_behind=int((newest < due_ms).sum()),
    )


def absent_symbols(bars: pl.DataFrame, symbols: Collection[str]) -> list[str]:
    """Those of the symbols that have no bar at all, sorted."""
    return sorted(set(symbols).difference(bars["symbol"].unique().to_list()))


@dataclass(frozen=True)
class Latency:
    """From a bar's end to the moment the database took it, of bars that came by WebSocket; seconds.

    Attributes:
        bars: how many were measured.
        p50_s: half of them came no later; `p95_s`, `p99_s` and `max_s` likewise.
        min_s: the earliest; below zero where the database's clock is behind the exchange's.
    """

    bars: int
    min_s: float
    p50_s: float
    p95_s: float
    p99_s: float
    max_s: float


def latency(streamed: pl.DataFrame) -> Latency | None:
    """How late the streamed bars were known; None where no bar came by WebSocket.

    A bar that was fetched by REST, at once or long after, says nothing about the stream and is left out. The database's clock
    is taken for the exchange's: of a replayed past this measures nothing.

    Args:
        streamed: `timestamp` (UNIX ms), `knowledge_timestamp`, `channel`.
    """
    end = (pl.col("timestamp") + label_end(0)) * 1000
    late = (pl.col("knowledge_timestamp").dt.epoch("us") - end) / 1e6
    seconds = streamed.filter(pl.col("channel") == Channel.WEBSOCKET.value).select(late=late)["late"].drop_nulls()
    if seconds.is_empty():
        return None
    low, half, most, nearly_all, high = (
        float(seconds.quantile(share, interpolation="nearest") or 0.0) for share in (0.0, 0.5, 0.95, 0.99, 1.0)
    )
    return Latency(seconds.len(), low, half, most, nearly_all, high)
