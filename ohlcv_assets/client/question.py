"""What was asked: symbols, times, columns and choices, checked once, before anything is read.

Lives here: every check of an argument, and the error that names the mistake and what was probably meant. Does not: what is
done with the answer to it (reader.py).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from difflib import get_close_matches
from fnmatch import fnmatchcase
from typing import Literal, get_args

from ohlcv_assets.bars import SCHEMA, VALUES
from ohlcv_assets.errors import UnknownSymbol, UsageError
from ohlcv_assets.instruments import Market, Symbol, Universe
from ohlcv_assets.timestamps import (
    DAY_MS,
    HOUR_MS,
    MINUTE_MS,
    Interval,
    day_start_ms,
    floor_to,
    from_ms,
    in_utc,
    parse_moment,
)

#: How a moment is given: see `moment_of`.
Moment = date | datetime | str
Source = Literal["daily", "streamed", "stitched"]
#: Of what is missing: from the answers of a source, or from both stores.
MissingFrom = Literal["daily", "streamed", "stitched", "both"]
Label = Literal["end", "start"]
Fill = Literal["forward"]
Incomplete = Literal["raise", "drop", "keep"]
OnUnverified = Literal["raise", "drop"]
OnMissing = Literal["raise", "skip"]

#: The column that each label is.
ENDS: dict[str, str] = {"start": "interval_start", "end": "interval_end"}
#: What is no part of a stored bar and can be read beside it: the store that it came from, and its state in the ledger.
BESIDE: tuple[str, ...] = ("source", "state")
#: What `columns` may name: both ends of the bar's interval, every column of a stored bar, and what is known beside it.
READABLE: tuple[str, ...] = (*ENDS.values(), *SCHEMA, *BESIDE)

#: Every length that divides a UTC day and that the exchange has too.
WINDOWS_MS: dict[str, int] = {
    **{f"{count}m": count * MINUTE_MS for count in (3, 5, 15, 30)},
    **{f"{count}h": count * HOUR_MS for count in (1, 2, 4, 6, 8, 12)},
    "1d": DAY_MS,
}
_PATTERN = frozenset("*?[")


@dataclass(frozen=True)
class Question:
    """Which bars are meant.

    Attributes:
        market: of all of them.
        symbols: sorted, each once.
        interval: their starts lie in it.
        as_of: tz-aware; what was learnt later is not seen. None: the latest.
    """

    market: Market
    symbols: tuple[Symbol, ...]
    interval: Interval
    as_of: datetime | None = None

    @property
    def days(self) -> list[date]:
        """The UTC days that the interval touches."""
        return days_of(self.interval)

    @property
    def first_and_last_day(self) -> tuple[date, date]:
        """The first and the last of `days`."""
        return from_ms(self.interval.start_ms).date(), from_ms(self.interval.end_ms - 1).date()

    @property
    def symbols_in_words(self) -> str:
        """The first symbol, and how many more there are."""
        more = f" and {len(self.symbols) - 1} more" if len(self.symbols) > 1 else ""
        return f"{self.symbols[0]}{more}"

    def __str__(self) -> str:
        return f"{self.symbols_in_words} in {self.interval}"


def interval_of(start: Moment, end: Moment) -> Interval:
    """[start, end), or an error that says what is wrong with it; to the microsecond, for no bar starts between milliseconds."""
    return Interval.between(moment_of(start), moment_of(end))


def moment_of(moment: Moment) -> datetime:
    """The moment, in UTC, of a tz-aware datetime or an ISO 8601 text with a zone; a date, also as a text, is its UTC midnight.

    Raises:
        NaiveTime: a time of day without a zone.
        UsageError: what is no time, pandas' NaT among it, which calls itself a datetime, or lies in UTC beyond the years 1 to 9999.
    """
    try:
        if isinstance(moment, str):
            return parse_moment(moment)
        if isinstance(moment, datetime):
            return in_utc(moment)
        if isinstance(moment, date):
            return from_ms(day_start_ms(moment))
    except (ValueError, TypeError, OverflowError) as error:
        raise _no_moment(moment) from error
    raise _no_moment(moment)


def known_by(moment: Moment | None) -> datetime | None:
    """The moment itself, to the microsecond; a naive one is refused."""
    return None if moment is None else moment_of(moment)


def day_of(day: Moment) -> date:
    """The UTC day that is meant: a date, a text like 2025-06-01, or the day of a moment."""
    return moment_of(day).date()


def _no_moment(moment: object) -> UsageError:
    return UsageError(f"{moment!r} is no time", hint="give a tz-aware datetime, or a text like 2025-06-01T00:00Z")


def days_of(interval: Interval) -> list[date]:
    """The UTC days that the interval touches."""
    first = from_ms(interval.start_ms).date()
    count = (interval.end_ms - 1 - floor_to(interval.start_ms, DAY_MS)) // DAY_MS + 1
    return [first + timedelta(days=day) for day in range(count)]


def number_of(day: date) -> int:
    """The day, counted from 1970-01-01."""
    return day_start_ms(day) // DAY_MS


def symbols_of(universe: Universe, market: Market, asked: str | Sequence[str] | None) -> tuple[Symbol, ...]:
    """The symbols that are meant, sorted, each once.

    Args:
        universe: whose symbols can be asked for.
        market: of the symbols.
        asked: names, or patterns such as `*/USDT` (`*` any text, `?` one character, `[AB]` one of these); None: all.

    Raises:
        UnknownSymbol: the universe has no symbol of that name, or none that the pattern fits; its likes are in the hint.
        UsageError: nothing was asked for.
    """
    listed = universe.symbols[market]
    names = ["*"] if asked is None else _each("symbol", asked)
    if not names:
        raise UsageError("no symbol was asked for", hint="name one, or '*' for all of them")
    found: set[Symbol] = set()
    for name in names:
        fitting = _fitting(name, listed)
        if not fitting:
            raise UnknownSymbol(
                f"{name[:80]!r} is no {market} symbol of universe {universe.version}",
                hint=f"use {_near(name, listed)}",
            )
        found.update(fitting)
    return tuple(sorted(found))


def columns_of(names: str | Sequence[str] | None) -> list[str]:
    """The columns that were asked for, one or more; by default the values.

    Raises:
        UsageError: no column of that name; the nearest one is in the hint.
    """
    wanted = list(VALUES) if names is None else _each("column", names)
    for name in wanted:
        if name not in READABLE:
            near = get_close_matches(str(name), READABLE, n=1)
            raise UsageError(f"{name!r} is no column of a bar", hint=f"use {', '.join(near or READABLE)}")
    return wanted


def one_of(name: str, value: str, allowed: object) -> str:
    """The value itself, when it is one of a literal's."""
    return _checked(name, value, get_args(allowed))


def window_ms(resample: str, interval: Interval) -> int:
    """The length of a window of `resample`, whose windows the interval must hold whole.

    Raises:
        UsageError: no such length, or an interval that cuts the first or the last window.
    """
    length_ms = WINDOWS_MS[_checked("resample", resample, tuple(WINDOWS_MS))]
    start_ms, end_ms = floor_to(interval.start_ms, length_ms), -floor_to(-interval.end_ms, length_ms)
    if (start_ms, end_ms) != (interval.start_ms, interval.end_ms):
        raise UsageError(
            f"{interval} cuts a window of {resample}: windows begin at whole multiples of it since midnight, UTC",
            hint=f"read {Interval(start_ms, end_ms)}",
        )
    return length_ms


def _checked(name: str, value: str, allowed: Iterable[str]) -> str:
    names = list(allowed)
    if value not in names:
        raise UsageError(f"{name}={value!r} is not known", hint=f"use {' or '.join(names)}")
    return value


def _fitting(name: str, listed: Sequence[Symbol]) -> list[Symbol]:
    if not isinstance(name, str):
        raise UsageError(f"{name!r} is no symbol", hint="give a text like BTC/USDT, or a list of such")
    if _PATTERN & set(name):
        return [symbol for symbol in listed if fnmatchcase(symbol, name)]
    return [Symbol(name)] if name in listed else []


def _each(what: str, asked: str | Iterable[str]) -> list[str]:
    """One text as a list, too."""
    if isinstance(asked, str):
        return [asked]
    if not isinstance(asked, Iterable):
        raise UsageError(f"{asked!r} is no {what}", hint=f"give the name of a {what}, or a list of such")
    return list(asked)


def _near(name: str, listed: Sequence[Symbol]) -> str:
    """What was probably meant: a symbol by the notation of others, then by a mistyped letter."""
    if _PATTERN & set(name):
        return "a pattern such as */USDT (spot) or */USDT:USDT (futures)"
    meant = _squeezed(name.rpartition("::")[2])  # some name the exchange before it
    by_notation: dict[str, list[Symbol]] = {}
    for symbol in sorted(listed, key=lambda symbol: ("/USDT" not in symbol, symbol)):
        base, _, rest = symbol.partition("/")
        for notation in dict.fromkeys((_squeezed(symbol), _squeezed(base + rest.partition(":")[0]), _squeezed(base))):
            by_notation.setdefault(notation, []).append(symbol)
    like = [symbol for key in get_close_matches(meant, by_notation, n=3) for symbol in by_notation[key]]
    found = [*by_notation.get(meant, []), *get_close_matches(name.upper(), listed, n=3), *like]
    return ", ".join(list(dict.fromkeys(found))[:3]) or "one that symbols(), or ohlcv universe show, lists"


def _squeezed(name: str) -> str:
    """Letters and digits alone, as in btcusdt, BTC_USDT and BTC-USDT."""
    return "".join(filter(str.isalnum, name.upper()))
