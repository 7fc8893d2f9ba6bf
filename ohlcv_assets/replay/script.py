"""What the exchange does with each bar on each channel: the one place where a fault is decided.

Lives here: `Script`, a healthy exchange. Does not: any delivery; the pump, the REST handlers and the connections ask
the script what to do and do it. A script of faults is a subclass that decides otherwise for some (symbol, minute,
channel) or some request, and writes down what it did.

    close_lags_ms  per (market, symbol, minute): how late the closing event is, that it never comes, or comes twice
    rest_bars      per (market, symbol, range, now): bars that REST shows otherwise than the truth, or not at all
    rest_fault     per (market, path): an answer in place of the true one: a status, headers and a body
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from statistics import NormalDist
from typing import NamedTuple

from ohlcv_assets.instruments import Market
from ohlcv_assets.replay.partial import Kline

#: The closing event's lag is lognormal around this median, with this standard deviation of its logarithm:
#: 0.2 s in the middle, below 0.65 s for 99 in 100. Recorded USD-M captures show 0.25 to 2 s.
MEDIAN_LAG_MS = 200.0
LAG_SPREAD = 0.5

_NORMAL = NormalDist()


class Answer(NamedTuple):
    """An HTTP answer in place of the true one."""

    status: int
    body: bytes
    headers: Mapping[str, str] = {}


class Script:
    """A healthy exchange: every bar comes, on both channels, once and right.

    Args:
        seed: decides every lag; the same seed gives the same lags.
    """

    def __init__(self, seed: int) -> None:
        self._seed = seed

    def close_lags_ms(self, market: Market, symbol: str, timestamp_ms: int) -> Sequence[float]:
        """How many exchange milliseconds after a bar's end its closing event is sent, for each time that it is."""
        text = f"{self._seed} {market.value} {symbol} {timestamp_ms}"
        draw = int.from_bytes(hashlib.blake2b(text.encode(), digest_size=6).digest(), "big")
        return (MEDIAN_LAG_MS * math.exp(LAG_SPREAD * _NORMAL.inv_cdf((draw + 0.5) / 2**48)),)

    def rest_bars(
        self, market: Market, symbol: str, first_ms: int, last_ms: int, now_ms: int
    ) -> Mapping[int, Kline | None]:
        """What REST shows otherwise than the truth among the bars that start in [first_ms, last_ms], by start."""
        return {}

    def rest_fault(self, market: Market | None, path: str, now_ms: int) -> Answer | None:
        """An answer in place of the true one; None for the true one."""
        return None
