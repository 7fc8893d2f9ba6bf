"""A running stream in numbers: how it stands now, and each minute that is over.

Lives here: `StreamStatus` and `MinuteStatus`. Does not: the report at the end (stream_report.py), or showing them
(cli/stream.py, metrics.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ohlcv_assets.bars import Channel
from ohlcv_assets.exchange.stream_report import Percentiles
from ohlcv_assets.exchange.stream_writer import LastBar
from ohlcv_assets.instruments import Market
from ohlcv_assets.timestamps import Interval, iso

_NAMED = 20


@dataclass(frozen=True)
class StreamStatus:
    """How a stream stands.

    Attributes:
        market: spot or futures.
        interval: the minutes that it must bring.
        now_ms: the exchange's clock.
        symbols: how many.
        bars_due: bars of the interval whose minute is over.
        bars_present: those that are stored.
        bars_spooled: those that are safe on disk and wait for the store.
        bars_missing: those that are named missing.
        by_channel: how many this run stored, by how they came.
        latency_s: from a bar's end to the sink's return, in exchange seconds, of bars by WebSocket.
        event_to_commit_ms: from the event's arrival to the sink's return, in our own milliseconds.
        reconnects, hand_overs: of the WebSocket.
        rest_repairs: bars fetched because they had not come at T+d.
        weight_used: request weight.
        last_bars: by symbol, its latest bar.
    """

    market: Market
    interval: Interval
    now_ms: int
    symbols: int
    bars_due: int
    bars_present: int
    bars_spooled: int
    bars_missing: int
    by_channel: Mapping[Channel, int]
    latency_s: Percentiles
    event_to_commit_ms: Percentiles
    reconnects: int
    hand_overs: int
    rest_repairs: int
    weight_used: int
    last_bars: Mapping[str, LastBar]


@dataclass(frozen=True)
class MinuteStatus:
    """What became of one minute, told when its bars should be there; the totals are of the run so far.

    Attributes:
        minute_ms: the start of the minute.
        expected: bars of the minute.
        present: those that are stored.
        spooled: those that are safe on disk.
        by_channel: those that are stored or spooled, by how they came.
        lacking: the symbols whose bar is not here yet, sorted.
        latency_s: of bars that came by WebSocket since the minute before was told.
        connected_s: for how many seconds of the minute a WebSocket was open, to every symbol, by the exchange's clock.
        totals: how the stream stands.
    """

    minute_ms: int
    expected: int
    present: int
    spooled: int
    by_channel: Mapping[Channel, int]
    lacking: tuple[str, ...]
    latency_s: Percentiles
    connected_s: float
    totals: StreamStatus

    def facts(self) -> dict[str, Any]:
        """Plain values under stable names, the unit last: for a log, or a machine."""
        late, totals = self.latency_s, self.totals
        return {
            "market": totals.market.value,
            "minute": iso(self.minute_ms),
            "bars_expected": self.expected,
            "bars_present": self.present,
            "bars_spooled": self.spooled,
            "bars_by_websocket": self.by_channel[Channel.WEBSOCKET],
            "bars_by_rest": self.by_channel[Channel.REST],
            "bars_lacking": len(self.lacking),
            "lacking": list(self.lacking[:_NAMED]),
            "latency_p50_s": late.p50,
            "latency_p95_s": late.p95,
            "latency_p99_s": late.p99,
            "latency_max_s": late.max,
            "connected_s": self.connected_s,
            "total_present": totals.bars_present,
            "total_due": totals.bars_due,
            "total_spooled": totals.bars_spooled,
            "total_missing": totals.bars_missing,
            "reconnects": totals.reconnects,
            "hand_overs": totals.hand_overs,
            "rest_repairs": totals.rest_repairs,
            "request_weight": totals.weight_used,
        }
