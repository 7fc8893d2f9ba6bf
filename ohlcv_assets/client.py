"""The client: stored bars as models want them, without Dagster.

Lives here: `OhlcvClient`, which checks what was asked for, reads one of the two stores, and puts the label on the
bars: by default the end b of the bar [a, b), the moment from which it can be known. Does not: filling of gaps (a bar
that is not stored is not returned), or any write. Bars come from storage/lake.py (daily) and storage/database.py
(streamed).

    from ohlcv_assets import OhlcvClient
    OhlcvClient().read("BTC/USDT", "2025-06-01", "2025-06-02", market="spot", columns=["close", "volume"])

The database's driver is imported only when the streamed bars are asked for: the lake alone needs none.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date, datetime, timedelta
from difflib import get_close_matches
from functools import cached_property
from types import TracebackType
from typing import TYPE_CHECKING, Literal, get_args

import polars as pl

from ohlcv_assets.bars import SCHEMA, VALUES
from ohlcv_assets.errors import NoBars, UnknownSymbol, UsageError
from ohlcv_assets.instruments import Market, Symbol, Universe, load_universe
from ohlcv_assets.quality.results import Flow, QaResult, newest_result, partition_folder
from ohlcv_assets.settings import Settings, read_settings
from ohlcv_assets.storage.lake import Lake, Signature
from ohlcv_assets.timestamps import DAY_MS, HOUR_MS, Interval, floor_to, from_ms, iso, label_end, parse_time, to_ms

if TYPE_CHECKING:
    from ohlcv_assets.storage.database import Database

Source = Literal["daily", "streamed"]
Label = Literal["end", "start"]

_ENDS = {"start": "interval_start", "end": "interval_end"}
_END_DTYPE = pl.Datetime("ms", "UTC")
#: What `columns` may name: both ends of the bar's interval, and every column of a stored bar.
READABLE = (*_ENDS.values(), *SCHEMA)


class OhlcvClient:
    """Reads stored bars of one region; opens a store when it is first needed.

    Args:
        settings: which region, lake, database and universe; by default what the environment says.
    """

    def __init__(self, settings: Settings | None = None) -> None:
        self._settings = read_settings() if settings is None else settings

    def __enter__(self) -> OhlcvClient:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection to the database, if there is one; the client can be used again."""
        database = self.__dict__.pop("_database", None)
        if database is not None:
            database.close()

    def symbols(self, market: Market | str) -> list[Symbol]:
        """The symbols of the universe in a market, sorted."""
        return list(self._universe.symbols[Market.parse(market)])

    def read(
        self,
        symbols: str | Sequence[str],
        start: datetime | str,
        end: datetime | str,
        *,
        market: Market | str,
        source: Source = "daily",
        label: Label = "end",
        columns: Sequence[str] | None = None,
        as_of: datetime | str | None = None,
    ) -> pl.DataFrame:
        """The stored bars whose interval starts in [start, end); a bar that is not stored is never made up.

        Args:
            symbols: one or more CCXT unified symbols of the universe: `BTC/USDT`, or `BTC/USDT:USDT` for futures.
            start: the first moment, a tz-aware datetime or an ISO 8601 text with a zone (a bare date is its UTC
                midnight).
            end: the moment after the last; a bar that starts at `end` is not part of the answer.
            market: `spot` or `futures`.
            source: `daily` for the finished days of the lake, `streamed` for the database.
            label: which end of [a, b) comes first: `end` gives `interval_end` = b, `start` gives `interval_start` = a.
            columns: which columns follow the label and the symbol, in this order: any of `READABLE`. By default the
                values: prices in the quote asset, volume in the base asset (docs/reference/bars.md).
            as_of: what was known at this moment, and nothing learnt later; by default the latest.

        Returns:
            One row a bar, sorted by symbol and time: the label (`Datetime("ms", "UTC")`), `symbol`, the columns.

        Raises:
            UsageError: a naive time, a reversed interval, an unknown market, symbol, column, source or label.
            NoBars: nothing of this is stored, or nothing of it was known at `as_of`.
            DayMissing: some of the days are not in the lake; names them.
            TransientError: the store does not answer.
        """
        wanted = self._known(symbols, Market.parse(market))
        interval = Interval(_moment_ms(start), _moment_ms(end))
        known_by = None if as_of is None else _known_by(as_of)
        shape = _shape(_one_of("label", label, Label), columns)
        if _one_of("source", source, Source) == "streamed":
            bars = self._database.read(Market.parse(market), interval, symbols=wanted, as_of=known_by)
        else:
            bars = self._daily(Market.parse(market), interval, wanted, known_by)
        if bars.is_empty():
            raise _nothing(source, wanted, interval, known_by)
        return bars.sort("symbol", "timestamp").with_columns(**_ends()).select(shape)

    def qa_result(self, market: Market | str, day: date | str, *, hour: int | None = None) -> QaResult:
        """The newest stored comparison of what was streamed with what was fetched: of a UTC day, or of one hour of it.

        Args:
            market: `spot` or `futures`.
            day: a date, or a text like 2025-06-01.
            hour: 0 to 23: of the ten-minute QA of that hour; None: of the day.

        Raises:
            UsageError: no market, day or hour.
            NoBars: this was not compared yet.
        """
        first_ms = parse_time(day if isinstance(day, str) else day.isoformat())
        if first_ms % DAY_MS or hour not in (None, *range(24)):
            raise UsageError(
                f"{day} hour={hour} is no UTC day or hour of it", hint="write 2025-06-01, and hours 0 to 23"
            )
        hour_ms = first_ms + (hour or 0) * HOUR_MS
        flow: Flow = "daily_qa" if hour is None else "recent_qa"
        interval = Interval(hour_ms, hour_ms + HOUR_MS)
        return newest_result(self._lake, partition_folder(flow, Market.parse(market), self._universe, interval))

    @cached_property
    def _universe(self) -> Universe:
        return load_universe(self._settings.universe, self._settings.universes)

    @cached_property
    def _lake(self) -> Lake:
        return Lake(self._settings.lake_url)

    @cached_property
    def _database(self) -> Database:
        from ohlcv_assets.storage.database import Database

        if self._settings.database_url is None:
            return Database.open(self._settings)  # the embedded server: started, and its tables made
        # On a server of somebody's own a reader needs no right to make tables.
        return Database(self._settings.database_url.get_secret_value())

    def _known(self, symbols: str | Sequence[str], market: Market) -> list[Symbol]:
        """The symbols asked for; the first that the universe does not have is named, with its likes."""
        names = [symbols] if isinstance(symbols, str) else list(symbols)
        if not names:
            raise UsageError("no symbol was asked for", hint="name one, or all of them by symbols()")
        listed = self._universe.symbols[market]
        for name in names:
            if name not in listed:
                near = ", ".join(get_close_matches(name.upper(), listed, n=3)) or "one that symbols() lists"
                raise UnknownSymbol(
                    f"{name[:80]!r} is no {market} symbol of universe {self._universe.version}", hint=f"use {near}"
                )
        return [Symbol(name) for name in names]

    def _daily(
        self, market: Market, interval: Interval, symbols: list[Symbol], known_by: datetime | None
    ) -> pl.DataFrame:
        signature = Signature.daily(market, self._universe)
        # Read whole, a day is verified against its content hash; some of its symbols alone cannot be.
        asked = None if set(symbols) == set(self._universe.symbols[market]) else symbols
        days = _days(interval)
        self._lake.scan(signature, days)  # names every day that is not there, where reading names the first
        bars = pl.concat([self._lake.read_day(signature, day, symbols=asked) for day in days])
        bars = bars.filter(pl.col("timestamp").is_between(interval.start_ms, interval.end_ms, closed="left"))
        if known_by is not None and not bars.is_empty():
            _refuse_later(bars, known_by)
        return bars


def _moment_ms(moment: datetime | str) -> int:
    if isinstance(moment, str):
        return parse_time(moment)
    if isinstance(moment, datetime):
        return to_ms(moment)
    raise UsageError(f"{moment!r} is no time", hint="give a tz-aware datetime, or a text like 2025-06-01T00:00Z")


def _known_by(moment: datetime | str) -> datetime:
    """The moment itself, to the microsecond where it is a datetime; a naive one is refused."""
    moment_ms = _moment_ms(moment)
    return from_ms(moment_ms) if isinstance(moment, str) else moment


def _days(interval: Interval) -> list[date]:
    """The UTC days that the interval touches."""
    first = from_ms(interval.start_ms).date()
    count = (interval.end_ms - 1 - floor_to(interval.start_ms, DAY_MS)) // DAY_MS + 1
    return [first + timedelta(days=day) for day in range(count)]


def _one_of(name: str, value: str, literal: object) -> str:
    allowed = get_args(literal)
    if value not in allowed:
        raise UsageError(f"{name}={value!r} is not known", hint=f"use {' or '.join(allowed)}")
    return value


def _shape(label: str, columns: Sequence[str] | None) -> list[str]:
    """The names of the answer's columns: the label, the symbol, and what was asked for, each once."""
    names = VALUES if columns is None else columns
    for name in names:
        if name not in READABLE:
            near = get_close_matches(name, READABLE, n=1)
            raise UsageError(f"{name!r} is no column of a bar", hint=f"use {', '.join(near or READABLE)}")
    return list(dict.fromkeys([_ENDS[label], "symbol", *names]))


def _ends() -> dict[str, pl.Expr]:
    """Both ends of the bar's interval, as columns."""
    start = pl.col("timestamp")
    shift_ms = label_end(0)
    return {"interval_start": start.cast(_END_DTYPE), "interval_end": (start + shift_ms).cast(_END_DTYPE)}


def _refuse_later(bars: pl.DataFrame, known_by: datetime) -> None:
    """A day's file holds one state of the day: one that was written later cannot say what was known before."""
    later = bars.filter(pl.col("knowledge_timestamp") > known_by)
    if later.is_empty():
        return
    first = later.row(0, named=True)
    raise NoBars(
        f"the day of {iso(first['timestamp'])} was written at {first['knowledge_timestamp'].isoformat()}, "
        f"after {known_by.isoformat()}",
        hint="ask for a later as_of; what a day held before lies beside it under replaced/",
    )


def _nothing(source: str, symbols: list[Symbol], interval: Interval, known_by: datetime | None) -> NoBars:
    more = f" and {len(symbols) - 1} more" if len(symbols) > 1 else ""
    known = f" that was known at {known_by.isoformat()}" if known_by else ""
    return NoBars(
        f"there is no {source} bar of {symbols[0]}{more} in {interval}{known}",
        hint="ask for another interval or the other source, or download these bars first",
    )
