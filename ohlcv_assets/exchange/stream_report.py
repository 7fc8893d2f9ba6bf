"""What a stream did, in numbers.

Lives here: `StreamReport` and the percentiles in it. Does not: anything that happens while streaming (stream.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from ohlcv_assets.bars import Channel
from ohlcv_assets.instruments import Market, Symbol
from ohlcv_assets.timestamps import Interval

#: A minute of a run: for how many seconds a WebSocket was open, bars that had to be there, and bars that are stored.
MINUTES_SCHEMA: dict[str, pl.DataType] = {
    "minute_ms": pl.Int64(),
    "connected_s": pl.Float64(),
    "bars_expected": pl.Int64(),
    "bars_present": pl.Int64(),
}


@dataclass(frozen=True)
class Percentiles:
    """How many values, and their 50th, 95th and 99th percentile and largest; all None for no values."""

    count: int
    p50: float | None
    p95: float | None
    p99: float | None
    max: float | None

    @classmethod
    def of(cls, values: Sequence[float]) -> Percentiles:
        """The percentiles of these values; each is one of the values (no interpolation)."""
        if not values:
            return cls(0, None, None, None, None)
        found = np.percentile(values, [50, 95, 99, 100], method="inverted_cdf")
        return cls(len(values), *(float(value) for value in found))


@dataclass(frozen=True)
class StreamReport:
    """One run of `stream_bars`.

    Attributes:
        market: spot or futures.
        interval: the minutes that had to be there.
        symbols: what was streamed, in the order given.
        bars_expected: symbols x minutes of the interval, less those before a symbol's listing.
        bars_present: distinct (symbol, minute) of these that are stored, those of `already` among them.
        by_channel: how many of them this run stored, by how they came.
        missing: (symbol, timestamp) of expected bars that are not stored, sorted.
        unanswered: how many of the missing the exchange never gave a healthy answer about.
        latency_s: from a bar's end to the sink's return, in seconds of the exchange's clock, of the bars of the
            interval that came by WebSocket.
        event_to_commit_ms: from the event's arrival in this process to the sink's return, in milliseconds of our own
            time, of the same bars.
        overlap_bars: bars outside the interval that were stored besides.
        reconnects: how often the WebSocket was connected again.
        rest_repairs: bars fetched because they had not come by WebSocket at T+d, of minutes that ended while this ran.
        weight_used: request weight.
        bars_spooled: expected bars that are safe, and not stored yet: they wait for the store, and are in neither
            `bars_present` nor `missing`.
        hand_overs: how often one WebSocket connection took over from another that still worked.
        minutes: `MINUTES_SCHEMA`: each minute of the interval, in order.
        first_timestamp, last_timestamp: of the bars present, UNIX milliseconds; None if there are none.
    """

    market: Market
    interval: Interval
    symbols: tuple[Symbol, ...]
    bars_expected: int
    bars_present: int
    by_channel: dict[Channel, int]
    missing: pl.DataFrame
    unanswered: int
    latency_s: Percentiles
    event_to_commit_ms: Percentiles
    overlap_bars: int
    bars_spooled: int
    reconnects: int
    hand_overs: int
    rest_repairs: int
    weight_used: int
    minutes: pl.DataFrame
    first_timestamp: int | None
    last_timestamp: int | None
