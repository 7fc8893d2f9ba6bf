"""What time it is, and waiting: the machine's clock and the exchange's.

Lives here: the `Clock` that every other module takes as an argument, so that the same code runs against Binance,
against a replayed day at sixty times its speed and, in tests, in virtual time. Does not: measuring the exchange's
clock, which needs the network (exchange/server_time.py).
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Protocol


class Clock(Protocol):
    """A clock that can be read and waited on, in its own seconds."""

    def now_ms(self) -> int:
        """UNIX milliseconds now, on this clock."""
        ...

    async def sleep(self, delay_s: float) -> None:
        """Wait `delay_s` seconds of this clock."""
        ...

    def wall_s(self, delay_s: float) -> float:
        """How many seconds of a person's watch `delay_s` seconds of this clock take."""
        ...


class SystemClock:
    """The machine's own clock."""

    def now_ms(self) -> int:
        """UNIX milliseconds now."""
        return time.time_ns() // 1_000_000

    async def sleep(self, delay_s: float) -> None:
        """Wait `delay_s` seconds."""
        await asyncio.sleep(max(0.0, delay_s))

    def wall_s(self, delay_s: float) -> float:
        """The same number: this clock is the watch."""
        return delay_s


@dataclass(frozen=True)
class ExchangeClock:
    """The exchange's clock, as measured once and counted on by the machine's monotonic clock.

    `speed` is 1.0 for a real exchange; a replay exchange says how many of its seconds pass in one of ours.
    Stepping the machine's clock (NTP, an operator) does not move this one.
    """

    anchor_ms: float
    anchor_monotonic_s: float
    speed: float = 1.0
    uncertainty_s: float = 0.0

    def now_ms(self) -> int:
        """UNIX milliseconds now, on the exchange."""
        return int(self.anchor_ms + (time.monotonic() - self.anchor_monotonic_s) * 1000 * self.speed)

    async def sleep(self, delay_s: float) -> None:
        """Wait `delay_s` seconds of the exchange's clock."""
        await asyncio.sleep(max(0.0, delay_s) / self.speed)

    def wall_s(self, delay_s: float) -> float:
        """Seconds of our own time that `delay_s` seconds of the exchange's take."""
        return delay_s / self.speed


def utc_now() -> datetime:
    """The machine's time now, tz-aware, UTC, microseconds: for `end_download_timestamp` and reports."""
    return datetime.now(UTC)
