"""Time: the half-open interval [start, end), the minute grid, and the one shift between a bar's two labels.

Lives here: UNIX milliseconds and tz-aware UTC datetimes and the way between them; parsing of times that people
type; the grid of minutes. Does not: reading a clock (clock.py). `label_end` and `label_start` are the only
places in the package that move a timestamp by 60,000 ms to change what it labels.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta

from ohlcv_assets.errors import NaiveTime, ReversedInterval, UsageError

MINUTE_MS = 60_000
HOUR_MS = 60 * MINUTE_MS
DAY_MS = 24 * HOUR_MS

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND = timedelta(milliseconds=1)
#: ISO 8601 has other forms of a day (2025-W23-1, 20250601): nobody who types one of these is sure to mean it.
_DAY = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
#: Digits beyond the microsecond, which Python would drop.
_TOO_FINE = re.compile(r"[.,][0-9]{6}[0-9]*[1-9]")


def to_ms(moment: datetime) -> int:
    """UNIX milliseconds of a tz-aware datetime, microseconds cut off (a naive one raises `NaiveTime`)."""
    if moment.utcoffset() is None:  # as Python defines naive: a zone may be there and not know its offset
        raise NaiveTime(f"{moment.isoformat()} has no time zone", hint=f"write {moment.isoformat()}Z for UTC")
    return (moment - _EPOCH) // _MILLISECOND


def ceil_ms(moment: datetime) -> int:
    """The first UNIX millisecond that is not before a tz-aware datetime (a naive one raises `NaiveTime`).

    As either end of a half-open interval it holds exactly the whole milliseconds that the moment itself would.
    """
    at_ms = to_ms(moment)
    return at_ms if from_ms(at_ms) == moment else at_ms + 1


def in_utc(moment: datetime) -> datetime:
    """The same moment as a datetime of Python's own in UTC, to the microsecond (a naive one raises `NaiveTime`).

    polars compares a column of times with one of its own zone alone, and pandas' times call themselves datetimes.
    """
    to_ms(moment)  # refuses a naive one
    utc = moment.astimezone(UTC)
    return datetime.combine(utc.date(), utc.time(), UTC)


def from_ms(timestamp_ms: int) -> datetime:
    """The tz-aware UTC datetime of UNIX milliseconds (exact)."""
    return _EPOCH + timedelta(milliseconds=timestamp_ms)


def iso(timestamp_ms: int) -> str:
    """2025-06-01T00:00Z, with seconds or milliseconds only where there are some.

    What lies beyond the years 1 to 9999 (microseconds taken for milliseconds do) is written as a number, so that
    an error can always name it.
    """
    try:
        moment = from_ms(timestamp_ms)
    except OverflowError:
        return f"{timestamp_ms} ms"
    precision = "milliseconds" if timestamp_ms % 1000 else "seconds" if timestamp_ms % MINUTE_MS else "minutes"
    return moment.isoformat(timespec=precision).replace("+00:00", "Z")


def parse_moment(text: str) -> datetime:
    """The moment of an ISO 8601 time with a zone, in UTC, to the microsecond, or of a bare date (its midnight, UTC).

    Raises:
        NaiveTime: a time of day without a zone.
        UsageError: not a time at all, one finer than a microsecond, or one that lies in UTC beyond the years 1 to 9999.
    """
    try:
        if _DAY.fullmatch(text):
            return from_ms(day_start_ms(date.fromisoformat(text)))
        if _DAY.match(text) and not _TOO_FINE.search(text):
            return in_utc(datetime.fromisoformat(text))
    except (ValueError, OverflowError) as error:
        raise _no_time(text) from error
    raise _no_time(text)


def parse_time(text: str) -> int:
    """The same in UNIX milliseconds: the first one that is not before the moment (`ceil_ms`)."""
    return ceil_ms(parse_moment(text))


def parse_day(text: str) -> date:
    """The day of a text like 2025-06-01; no other form is one.

    Raises:
        UsageError: another form, or a day that no calendar has.
    """
    try:
        if _DAY.fullmatch(text):
            return date.fromisoformat(text)
    except ValueError as error:
        raise UsageError(f"{text!r} is no day: {error}", hint="write it as 2025-06-01") from error
    raise UsageError(f"{text!r} is no day", hint="write it as 2025-06-01")


def _no_time(text: str) -> UsageError:
    return UsageError(
        f"{text!r} is not a time", hint="write 2025-06-01T00:00Z or 2025-06-01, to the microsecond at most"
    )


def day_start_ms(day: date) -> int:
    """The first millisecond of a UTC day."""
    return to_ms(datetime(day.year, day.month, day.day, tzinfo=UTC))


def floor_to(timestamp_ms: int, step_ms: int) -> int:
    """The last multiple of `step_ms` that is not after `timestamp_ms`."""
    return timestamp_ms - timestamp_ms % step_ms


def label_end(start_ms: int, interval_ms: int = MINUTE_MS) -> int:
    """The end of the bar that starts at `start_ms`: the label b of [a, b)."""
    return start_ms + interval_ms


def label_start(end_ms: int, interval_ms: int = MINUTE_MS) -> int:
    """The start of the bar that ends at `end_ms`: the label a of [a, b)."""
    return end_ms - interval_ms


@dataclass(frozen=True, order=True)
class Interval:
    """A half-open interval [start_ms, end_ms) of UNIX milliseconds, UTC, never empty.

    A bar lies in it when the bar's start does: `start_ms <= timestamp < end_ms`.
    """

    start_ms: int
    end_ms: int

    def __post_init__(self) -> None:
        if self.start_ms >= self.end_ms:
            raise ReversedInterval(
                f"the interval starts at {iso(self.start_ms)} and ends at {iso(self.end_ms)}",
                hint="give a start before the end; the end itself is not part of the interval",
            )

    @classmethod
    def parse(cls, start: str, end: str) -> Interval:
        """The interval between two times as people type them (see `parse_time`)."""
        return cls(parse_time(start), parse_time(end))

    @classmethod
    def between(cls, start: datetime, end: datetime) -> Interval:
        """The interval between two tz-aware datetimes."""
        return cls(ceil_ms(start), ceil_ms(end))

    @classmethod
    def of_day(cls, day: date) -> Interval:
        """A whole UTC day: 1,440 minutes."""
        start_ms = day_start_ms(day)
        return cls(start_ms, start_ms + DAY_MS)

    @classmethod
    def of_hour(cls, hour_ms: int) -> Interval:
        """The whole UTC hour that holds `hour_ms`."""
        start_ms = floor_to(hour_ms, HOUR_MS)
        return cls(start_ms, start_ms + HOUR_MS)

    def __contains__(self, timestamp_ms: object) -> bool:
        return isinstance(timestamp_ms, int) and self.start_ms <= timestamp_ms < self.end_ms

    def __str__(self) -> str:
        return f"[{iso(self.start_ms)}, {iso(self.end_ms)})"

    @property
    def minutes(self) -> range:
        """The starts of the whole minutes that begin in the interval, in UNIX milliseconds."""
        first_ms = self.start_ms + (-self.start_ms) % MINUTE_MS
        return range(first_ms, self.end_ms, MINUTE_MS)

    def intersect(self, other: Interval) -> Interval | None:
        """What both hold, or None."""
        start_ms, end_ms = max(self.start_ms, other.start_ms), min(self.end_ms, other.end_ms)
        return Interval(start_ms, end_ms) if start_ms < end_ms else None

    def split(self, step_ms: int) -> Iterator[Interval]:
        """Consecutive pieces of at most `step_ms` (above zero), in order, that together are the interval."""
        if step_ms <= 0:
            raise UsageError(f"an interval cannot be cut into pieces of {step_ms} ms", hint="give a step above zero")
        for start_ms in range(self.start_ms, self.end_ms, step_ms):
            yield Interval(start_ms, min(start_ms + step_ms, self.end_ms))

    def hours(self) -> Iterator[Interval]:
        """The whole UTC hours that the interval touches, in order."""
        for start_ms in range(floor_to(self.start_ms, HOUR_MS), self.end_ms, HOUR_MS):
            yield Interval(start_ms, start_ms + HOUR_MS)


def runs_of_minutes(timestamps_ms: list[int]) -> list[Interval]:
    """The fewest intervals that hold exactly these minute starts: how missing minutes are named.

    Args:
        timestamps_ms: minute starts in any order, duplicates allowed.
    """
    runs: list[list[int]] = []
    for start_ms in sorted(set(timestamps_ms)):
        if runs and runs[-1][1] == start_ms:
            runs[-1][1] = start_ms + MINUTE_MS
        else:
            runs.append([start_ms, start_ms + MINUTE_MS])
    return [Interval(first, last) for first, last in runs]
