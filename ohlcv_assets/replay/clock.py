"""The replay exchange's own clock: it starts where it is told, runs at any speed, and can be changed while it runs.

Lives here: `ReplayClock`, the only source of time of the whole replay exchange. Does not: any waiting (the pump and
the connections wait on the event loop, for the wall time that this clock tells them).
"""

from __future__ import annotations

import time
from collections.abc import Callable


class ReplayClock:
    """The exchange's time: `start_ms` when it is started, then `speed` of its seconds in one of the wall's.

    Args:
        start_ms: UNIX milliseconds at the start.
        speed: exchange seconds per wall second; 0 stands still.
        monotonic: seconds of a clock that never steps back; the event loop's own by default.
    """

    def __init__(self, start_ms: int, speed: float, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._anchor_ms = float(start_ms)
        self._anchor_s = monotonic()
        self._speed = speed
        self._listeners: list[Callable[[], None]] = []

    @property
    def speed(self) -> float:
        """Exchange seconds per wall second."""
        return self._speed

    def now_ms(self) -> int:
        """UNIX milliseconds now, on the exchange; rounded down, so that nothing due later is ever due now."""
        return int(self._anchor_ms + (self._monotonic() - self._anchor_s) * 1000 * self._speed)

    def monotonic_at(self, moment_ms: float) -> float | None:
        """When the monotonic clock will show what moment of the exchange; None while the exchange stands still."""
        if self._speed == 0:
            return None
        return self._anchor_s + (moment_ms - self._anchor_ms) / 1000 / self._speed

    def wall_s(self, delay_ms: float) -> float:
        """Wall seconds that `delay_ms` of the exchange take; infinite while it stands still."""
        return delay_ms / 1000 / self._speed if self._speed else float("inf")

    def restart(self) -> None:
        """Count from now on, at the time shown when the clock was made: called when the server listens."""
        self._anchor_s = self._monotonic()
        self._tell()

    def change_speed(self, speed: float) -> None:
        """Run at another speed from now on; 0 stands still."""
        self._anchor_ms += (self._monotonic() - self._anchor_s) * 1000 * self._speed
        self._anchor_s = self._monotonic()
        self._speed = speed
        self._tell()

    def on_change(self, listener: Callable[[], None]) -> None:
        """Call `listener` after every change, so that what waits can wait anew."""
        self._listeners.append(listener)

    def _tell(self) -> None:
        for listener in self._listeners:
            listener()
