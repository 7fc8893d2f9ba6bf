"""When a symbol was listed: the spans of time between its listings and its delistings, and where each is known from.

Lives here: `Span` and `ListingTimes`, and their form in a universe's file. Does not: finding the times out
(exchange/snapshot.py), or which symbols there are (instruments.py). Times are UNIX milliseconds of the exchange.

A symbol can come back under its old name (and be another asset then), so it has one span or several. What is not known is
open: a span without `since_ms` has always been there, one without `until_ms` still is.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from ohlcv_assets.errors import UsageError
from ohlcv_assets.timestamps import MINUTE_MS, Interval, iso


@dataclass(frozen=True)
class Span:
    """A time in which a symbol was listed: [since_ms, until_ms).

    Attributes:
        since_ms: its first trading; None: not known, so at any time before `until_ms`.
        until_ms: its last trading; None: it is listed still.
        source: what both are known from, in words.
    """

    since_ms: int | None
    until_ms: int | None
    source: str

    def __post_init__(self) -> None:
        if self._start >= self._end:
            raise UsageError(f"a listing cannot end before it begins: {self}", hint="give the earlier time first")

    def __str__(self) -> str:
        since = "?" if self.since_ms is None else iso(self.since_ms)
        return f"[{since}, {'now' if self.until_ms is None else iso(self.until_ms)})"

    def overlaps(self, interval: Interval) -> bool:
        """Whether the symbol was listed at some time of the interval."""
        return self._start < interval.end_ms and interval.start_ms < self._end

    @property
    def _start(self) -> float:
        return -math.inf if self.since_ms is None else self.since_ms

    @property
    def _end(self) -> float:
        return math.inf if self.until_ms is None else self.until_ms

    def comes_before(self, other: Span) -> bool:
        """Whether it is over when the other begins."""
        return self._end <= other._start


@dataclass(frozen=True)
class ListingTimes:
    """Every span in which a symbol was listed, in order, and the exchange's own name of it.

    Attributes:
        exchange_name: the exchange's own name, such as `BTCUSDT`: it outlives the listing, and is not always the
            unified one without its signs (BSV/USDT was BCHSVUSDT).
        spans: one or more, none overlapping another.
    """

    exchange_name: str
    spans: tuple[Span, ...]

    def __post_init__(self) -> None:
        if not self.spans or not all(before.comes_before(after) for before, after in pairwise(self.spans)):
            raise UsageError(
                f"{self.exchange_name}: spans that overlap, or none: {', '.join(map(str, self.spans))}",
                hint="give the times of each listing once, in order",
            )

    @property
    def since_ms(self) -> int | None:
        """Its very first trading; None when it is not known."""
        return self.spans[0].since_ms

    @property
    def until_ms(self) -> int | None:
        """Its last trading; None while it is listed."""
        return self.spans[-1].until_ms

    @property
    def source(self) -> str:
        """What the times of the last span are known from."""
        return self.spans[-1].source

    def listed_in(self, interval: Interval) -> bool:
        """Whether it was listed at some time of the interval."""
        return any(span.overlaps(interval) for span in self.spans)

    def listed_at(self, minute_ms: int) -> bool:
        """Whether it was listed at some time of the minute that starts there."""
        return self.listed_in(Interval(minute_ms, minute_ms + MINUTE_MS))

    def with_last(self, span: Span) -> ListingTimes:
        """The same with another last span."""
        return ListingTimes(self.exchange_name, (*self.spans[:-1], span))

    def followed_by(self, span: Span) -> ListingTimes:
        """The same with one more span: the symbol came back."""
        return ListingTimes(self.exchange_name, (*self.spans, span))

    def to_json(self) -> dict[str, Any]:
        """Its form in a universe's file."""
        spans = [{"since_ms": s.since_ms, "until_ms": s.until_ms, "source": s.source} for s in self.spans]
        return {"exchange_name": self.exchange_name, "spans": spans}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> ListingTimes:
        """The times of that form.

        Raises:
            KeyError: a field is not there.
            TypeError: a value of another type.
            UsageError: spans that cannot be meant.
        """
        spans = [Span(_ms(s["since_ms"]), _ms(s["until_ms"]), _text(s["source"])) for s in content["spans"]]
        return cls(_text(content["exchange_name"]), tuple(spans))


def _ms(value: object) -> int | None:
    if value is not None and type(value) is not int:  # a bool is no time, nor is a float
        raise TypeError(f"{value!r} is no time in UNIX milliseconds")
    return value


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is no text")
    return value
