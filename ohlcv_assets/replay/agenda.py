"""What is due when, on the exchange's clock: a heap of actions on one timer of the event loop.

Lives here: `Agenda`, which runs each action when its moment has come, and waits anew when the clock's speed changes. Does not:
what is done (pump.py sends kline events, faults/ breaks things).
"""

from __future__ import annotations

import asyncio
import heapq
import math
from collections.abc import Callable

from ohlcv_assets.replay.clock import ReplayClock

#: What is done when it is due, given the clock's UNIX milliseconds at that time: never early, perhaps late.
Action = Callable[[int], None]


class Agenda:
    """Actions in the order of their moments; those of one moment in the order in which they were put down.

    Args:
        clock: the exchange's clock.
    """

    def __init__(self, clock: ReplayClock) -> None:
        self._clock = clock
        self._due: list[tuple[int, int, Action]] = []
        self._pushed = 0
        self._timer: asyncio.TimerHandle | None = None
        self._waiting = False

    def start(self) -> None:
        """Begin; needs a running event loop."""
        self._clock.on_change(self._arm)
        self._waiting = True
        self._arm()

    def stop(self) -> None:
        """Do nothing more."""
        self._waiting = False
        self._due.clear()
        self._disarm()

    def schedule(self, due_ms: float, action: Action) -> None:
        """Do something at a moment, or at once when it is over."""
        self._pushed += 1
        due = (math.ceil(due_ms), self._pushed, action)
        heapq.heappush(self._due, due)
        if self._waiting and self._due[0] is due:
            self._arm()

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _arm(self) -> None:
        """Set the timer to what is due next."""
        if not self._waiting:
            return
        self._disarm()
        moment_s = self._clock.monotonic_at(self._due[0][0]) if self._due else None
        if moment_s is not None:
            self._timer = asyncio.get_running_loop().call_at(moment_s, self._fire)

    def _fire(self) -> None:
        self._waiting = False  # what the actions put down is armed once, below
        try:
            while self._due and self._due[0][0] <= (now_ms := self._clock.now_ms()):
                heapq.heappop(self._due)[2](now_ms)
        finally:
            self._waiting = True
            self._arm()
