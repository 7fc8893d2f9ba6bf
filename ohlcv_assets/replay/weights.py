"""Request weight: what each request costs, how much of it a UTC clock minute allows, and what follows beyond that.

Lives here: `WeightPool`, one budget a host as Binance keeps it (spot has one; USD-M and COIN-M share one). Does not:
HTTP; rest.py turns a verdict into an answer. Time is the exchange's: at sixty times its speed a minute's budget is
there anew every second.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from ohlcv_assets.timestamps import MINUTE_MS, floor_to

#: Requests answered 429 within a minute before the address is banned. Binance does not say how many; this is a
#: guess that spares a few requests already under way and punishes a loop.
PATIENCE = 40
FIRST_BAN_MS = 2 * MINUTE_MS
LONGEST_BAN_MS = 3 * 24 * 60 * MINUTE_MS

_MINUTES_KEPT = 3_000


@dataclass(frozen=True)
class Verdict:
    """What a request met: the minute's weight with it, and for how long to stay away if it was refused."""

    used: int
    status: int = 200
    retry_after_s: int = 0
    banned_until_ms: int = 0


@dataclass
class WeightPool:
    """The request weight of one pool, by UTC clock minute of the exchange.

    Attributes:
        limit: weight a minute.
        by_minute: weight used, by the minute's start in UNIX ms.
        refused: how many requests were answered 429 and 418.
    """

    limit: int
    by_minute: Counter[int] = field(default_factory=Counter)
    refused: Counter[int] = field(default_factory=Counter)
    requests: int = 0
    _refused_in_minute: Counter[int] = field(default_factory=Counter)
    _ban_ms: int = FIRST_BAN_MS
    _banned_until_ms: int = 0

    def charge(self, weight: int, now_ms: int) -> Verdict:
        """Count a request; a refused one counts as well."""
        self.requests += 1
        minute = floor_to(now_ms, MINUTE_MS)
        self.by_minute[minute] += weight
        self._forget()
        used = self.by_minute[minute]
        if now_ms >= self._banned_until_ms and used <= self.limit:
            return Verdict(used)
        if now_ms >= self._banned_until_ms:
            self._refused_in_minute[minute] += 1
            if self._refused_in_minute[minute] <= PATIENCE:
                self.refused[429] += 1
                return Verdict(used, 429, _seconds_until(minute + MINUTE_MS, now_ms))
            self._ban(now_ms)
        self.refused[418] += 1
        return Verdict(used, 418, _seconds_until(self._banned_until_ms, now_ms), self._banned_until_ms)

    def _ban(self, now_ms: int) -> None:
        """Ban the address; each ban is twice as long as the one before."""
        self._banned_until_ms = now_ms + self._ban_ms
        self._ban_ms = min(2 * self._ban_ms, LONGEST_BAN_MS)

    def _forget(self) -> None:
        if len(self.by_minute) > _MINUTES_KEPT:
            oldest = min(self.by_minute)
            del self.by_minute[oldest]
            self._refused_in_minute.pop(oldest, None)


def futures_klines_weight(limit: int) -> int:
    """What a page of klines costs on USD-M, by the documented table."""
    return 1 if limit < 100 else 2 if limit < 500 else 5 if limit <= 1000 else 10


def _seconds_until(moment_ms: int, now_ms: int) -> int:
    """Whole seconds, rounded up: whoever waits that long is not early."""
    return max(1, -(-(moment_ms - now_ms) // 1000))
