"""Which bars of a stream are stored, wait for the store, are still awaited, or are named missing.

Lives here: the bookkeeping of one run over its grid of symbols and minutes. Does not: time, network or storing; the
others in this folder tell it what happened, and ask it what is left.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

from ohlcv_assets.bars import Channel
from ohlcv_assets.instruments import Symbol
from ohlcv_assets.timestamps import MINUTE_MS, Interval

Key = tuple[str, int]


@dataclass
class _Awaited:
    """A bar that is not there: how often the exchange answered without it, and when to ask again."""

    answers: int = 0
    answered_ms: float = -math.inf
    ask_again_ms: float = 0.0
    pause_s: float = 1.0


_LONGEST_PAUSE_S = 15.0
#: Two answers in the same moment are one witness: an exchange that stumbles, stumbles for some seconds.
WITNESSES_APART_S = 30.0


@dataclass
class Tally:
    """The state of every (symbol, minute) of one run's interval.

    Args:
        interval: the minutes that must be there.
        first_minutes: per symbol, the first minute in which it can have traded.
        already: keys that are stored before the run begins.
    """

    interval: Interval
    first_minutes: Mapping[Symbol, int]
    already: Collection[Key] = ()
    expected: int = field(init=False, default=0)
    stored: dict[Key, Channel | None] = field(init=False, default_factory=dict)
    #: Safe, but not in the store yet: it is away.
    kept: dict[Key, Channel] = field(init=False, default_factory=dict)
    missing: set[Key] = field(init=False, default_factory=set)
    _open: dict[int, dict[str, _Awaited]] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        already = set(self.already)
        for minute in self.interval.minutes:
            symbols = [symbol for symbol, first in self.first_minutes.items() if first <= minute]
            self.expected += len(symbols)
            self.stored |= {(symbol, minute): None for symbol in symbols if (symbol, minute) in already}
            awaited: dict[str, _Awaited] = {s: _Awaited() for s in symbols if (s, minute) not in already}
            if awaited:
                self._open[minute] = awaited

    @property
    def settled(self) -> bool:
        """Whether every bar has arrived or is named missing."""
        return not self._open

    def arrived(self, key: Key) -> None:
        """The bar is in this process, and on its way to the store."""
        symbol, minute = key
        self.missing.discard(key)
        self._close(symbol, minute)

    def awaits(self, key: Key) -> bool:
        """Whether the bar belongs to the interval and has neither arrived nor been named missing."""
        return key[0] in self._open.get(key[1], ())

    def is_stored(self, frame_keys: Iterable[Key], channel: Channel) -> int:
        """The store has taken these bars; returns how many of them belong to the interval and are new."""
        new = [key for key in frame_keys if key not in self.stored and self.expects(key)]
        # What waited first is the capture that the store keeps, however the second came.
        self.stored.update((key, self.kept.pop(key, channel)) for key in new)
        return len(new)

    def is_kept(self, frame_keys: Iterable[Key], channel: Channel) -> None:
        """The store will take these bars later; they are safe until then."""
        for key in frame_keys:
            if key not in self.stored and self.expects(key):
                self.kept.setdefault(key, channel)

    def reopen(self, frame_keys: Iterable[Key], ask_again_ms: float) -> None:
        """These bars could be kept nowhere: they are awaited again, and due at `ask_again_ms`."""
        for key in frame_keys:
            if key not in self.stored and self.expects(key):
                self.kept.pop(key, None)
                self._open.setdefault(key[1], {})[key[0]] = _Awaited(ask_again_ms=ask_again_ms)
        self._open = dict(sorted(self._open.items()))

    def expects(self, key: Key) -> bool:
        """Whether the bar belongs to the interval and its symbol was listed."""
        return key[1] in self.interval and key[1] >= self.first_minutes.get(Symbol(key[0]), 0)

    def is_safe(self, key: Key) -> bool:
        """Whether the bar is stored, or waits for the store."""
        return key in self.stored or key in self.kept

    def end_at(self, end_ms: int) -> None:
        """Expect nothing of the minutes that begin at `end_ms` or later."""
        for minute in [minute for minute in self.interval.minutes if minute >= end_ms]:
            self.expected -= sum(first <= minute for first in self.first_minutes.values())
            self._open.pop(minute, None)
        self.interval = Interval(self.interval.start_ms, end_ms)
        for past in (self.stored, self.kept):
            for key in [key for key in past if key not in self]:
                del past[key]
        self.missing = {key for key in self.missing if key in self}

    def __contains__(self, key: Key) -> bool:
        """Whether the bar's minute begins in the interval."""
        return key[1] in self.interval

    def due(self, now_ms: float, delay_s: float) -> list[Key]:
        """Awaited bars whose minute ended `delay_s` or more ago and that may be asked for now, in order of time."""
        return [
            (symbol, minute)
            for minute, awaited in self._open.items()
            if minute + MINUTE_MS + delay_s * 1000 <= now_ms
            for symbol, state in awaited.items()
            if state.ask_again_ms <= now_ms
        ]

    def next_due_ms(self, now_ms: float, delay_s: float) -> float | None:
        """When `due` next gives something; None when everything is settled, infinity when all of it is being asked for."""
        earliest: float | None = None
        # Minutes are in order of time, so the first that is not due for its age ends the search.
        for minute, awaited in self._open.items():
            of_age_ms = minute + MINUTE_MS + delay_s * 1000
            if of_age_ms > now_ms:
                return of_age_ms if earliest is None else min(earliest, of_age_ms)
            ask_ms = min(state.ask_again_ms for state in awaited.values())
            earliest = ask_ms if earliest is None else min(earliest, ask_ms)
        return earliest

    def being_asked(self, keys: Iterable[Key]) -> None:
        """These are asked for now, and not due before the answer is in."""
        for symbol, minute in keys:
            if state := self._open.get(minute, {}).get(symbol):
                state.ask_again_ms = math.inf

    def asked_in_vain(self, keys: Iterable[Key], now_ms: float, *, answered: bool) -> None:
        """These were asked for and are still not there: `answered` if the exchange gave a healthy answer without them."""
        for symbol, minute in keys:
            if state := self._open.get(minute, {}).get(symbol):
                if answered and now_ms - state.answered_ms >= WITNESSES_APART_S * 1000:
                    state.answers, state.answered_ms = state.answers + 1, now_ms
                state.ask_again_ms = now_ms + state.pause_s * 1000
                state.pause_s = min(2 * state.pause_s, _LONGEST_PAUSE_S)

    def agreed_absent(self, keys: Iterable[Key], ended_before_ms: float) -> list[Key]:
        """Those of `keys` that two healthy answers lacked, and whose minute ended before `ended_before_ms`."""
        return [
            (symbol, minute)
            for symbol, minute in keys
            if minute + MINUTE_MS <= ended_before_ms
            and (state := self._open.get(minute, {}).get(symbol)) is not None
            and state.answers >= 2
        ]

    def name_missing(self, keys: Iterable[Key]) -> None:
        """Stop waiting for these bars; one that comes later after all is taken."""
        for symbol, minute in keys:
            self.missing.add((symbol, minute))
            self._close(symbol, minute)

    def open_keys(self) -> list[Key]:
        """Every bar that is still awaited."""
        return [(symbol, minute) for minute, awaited in self._open.items() for symbol in awaited]

    def _close(self, symbol: str, minute: int) -> None:
        awaited = self._open.get(minute)
        if awaited is not None:
            awaited.pop(symbol, None)
            if not awaited:
                del self._open[minute]
