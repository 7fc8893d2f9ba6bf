"""When each kline event is due, and sending it then: the closing event of every bar, and the bars so far before it.

Lives here: one market's events and their moments, on an agenda of its own. Does not: the waiting (agenda.py), who listens
(hub.py) or what an event says (wire.py). No closing event is sent before the bar's end on the exchange's
clock, and its `E` is that clock when it is sent.

Binance sends a bar so far every 2,000 ms on spot, and on USD-M every 250 ms if there was a trade. At a
high speed that would be thousands of messages a second, so that at most four a wall second are sent for a symbol. On USD-M a minute
without a trade has no event at all; REST has its flat bar.
"""

from __future__ import annotations

import math
import zlib
from functools import partial

from ohlcv_assets.instruments import Market
from ohlcv_assets.replay.agenda import Agenda
from ohlcv_assets.replay.clock import ReplayClock
from ohlcv_assets.replay.hub import Hub
from ohlcv_assets.replay.partial import so_far
from ohlcv_assets.replay.script import Closing, Script
from ohlcv_assets.replay.tape import MarketTape, SymbolTape
from ohlcv_assets.replay.wire import kline_event
from ohlcv_assets.timestamps import MINUTE_MS, floor_to

#: Exchange milliseconds between two bars so far of a symbol.
CADENCE_MS: dict[Market, int] = {Market.SPOT: 2_000, Market.FUTURES: 250}
#: ... and the least wall milliseconds, however fast the exchange's clock runs.
LEAST_WALL_MS = 250

# Symbols share this many moments within a cadence, so that one wake-up serves several.
_PHASES = 8
# The next bar's events wait for a closing event that is late by no more than this.
_HELD_BACK_MS = 2_000


class Pump:
    """Sends one market's kline events when they are due.

    Args:
        tape: the market's bars.
        clock: the exchange's clock.
        script: when each closing event is sent, and what it says.
    """

    def __init__(self, tape: MarketTape, clock: ReplayClock, script: Script) -> None:
        self.hub = Hub(tape.by_stream, self._begin)
        self._tape = tape
        self._clock = clock
        self._script = script
        self._agenda = Agenda(clock)
        self._minute_ms = 0  # the minute whose closing events are planned next
        self._running: set[str] = set()  # streams with bars so far on the schedule
        self._closing: dict[str, int] = {}  # streams whose closing event is on its way, and of which minute
        self._last_sent: dict[str, tuple[int, int]] = {}  # minute and trades of the last bar so far

    def start(self) -> None:
        """Begin at the minute that the clock shows; needs a running event loop."""
        self._plan_minute(floor_to(self._clock.now_ms(), MINUTE_MS))
        self._agenda.start()

    def stop(self) -> None:
        """Send nothing more."""
        self._agenda.stop()

    def _plan_minute(self, minute_ms: int) -> None:
        """A minute begins; its closing events are planned when it ends. No minute is left out, however late this is."""
        self._minute_ms = minute_ms
        self._agenda.schedule(minute_ms + MINUTE_MS, self._end_of_minute)

    def _end_of_minute(self, _now_ms: int) -> None:
        for stream, tape in self._tape.by_stream.items():
            self._plan_close(stream, tape, self._minute_ms)
        self._plan_minute(self._minute_ms + MINUTE_MS)

    def _plan_close(self, stream: str, tape: SymbolTape, minute_ms: int) -> None:
        final = tape.at(minute_ms)
        if final is None or (final.trade_count == 0 and self._tape.market is Market.FUTURES):
            return
        for closing in self._script.closings(self._tape.market, tape, final):
            if closing.lag_ms <= _HELD_BACK_MS and closing.bar is not None:
                self._closing[stream] = minute_ms
            due_ms = minute_ms + MINUTE_MS + closing.lag_ms
            self._agenda.schedule(due_ms, partial(self._close, stream, tape, minute_ms, closing))

    def _close(self, stream: str, tape: SymbolTape, minute_ms: int, closing: Closing, now_ms: int) -> None:
        if self._closing.get(stream) == minute_ms:
            del self._closing[stream]
        if not self.hub.heard(stream):
            return
        if closing.bar is not None:
            event = kline_event(closing.bar, tape.printed, name=tape.name, event_ms=now_ms, closed=True)
            self.hub.publish(stream, event)
        if closing.on_sent is not None:
            closing.on_sent(now_ms)

    def _begin(self, stream: str) -> None:
        """Someone listens to a stream that nobody listened to: its bars so far go on the schedule."""
        if stream not in self._running:
            self._running.add(stream)
            self._agenda.schedule(self._next_turn(stream, self._clock.now_ms()), partial(self._so_far, stream))

    def _next_turn(self, stream: str, now_ms: int) -> float:
        cadence_ms = max(CADENCE_MS[self._tape.market], LEAST_WALL_MS * self._clock.speed)
        phase_ms = cadence_ms * (zlib.crc32(stream.encode()) % _PHASES) / _PHASES
        turns = math.floor((now_ms - phase_ms) / cadence_ms) + 1
        return max(turns * cadence_ms + phase_ms, now_ms + 1)

    def _so_far(self, stream: str, now_ms: int) -> None:
        """Send a stream's bar so far, if there is one to send, and plan the next."""
        if not self.hub.heard(stream):
            self._running.discard(stream)
            return
        late = floor_to(now_ms, MINUTE_MS) != self._minute_ms
        if not late and stream not in self._closing:
            self._send_so_far(stream, self._tape.by_stream[stream], now_ms)
        self._agenda.schedule(self._next_turn(stream, now_ms), partial(self._so_far, stream))

    def _send_so_far(self, stream: str, tape: SymbolTape, now_ms: int) -> None:
        final = tape.at(floor_to(now_ms, MINUTE_MS))
        if final is None:
            return
        bar = so_far(final, now_ms, tape.decimals)
        if self._tape.market is Market.FUTURES:
            state = (bar.timestamp, bar.trade_count)
            if bar.trade_count == 0 or self._last_sent.get(stream) == state:
                return
            self._last_sent[stream] = state
        event = kline_event(bar, tape.printed, name=tape.name, event_ms=now_ms, closed=False)
        self.hub.publish(stream, event)
