"""What a stretch of time lacks, and what getting it costs: whole days for the lake, bars for PostgreSQL.

Lives here: which days or bars are not there yet, and the requests that they take. Does not: getting them (bulk.py), or one fetch
(exchange/fetch.py). What is there is the only memory: a plan that is made again has what is not stored, and nothing else.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date, timedelta
from typing import TYPE_CHECKING

import polars as pl

from ohlcv_assets.capture import known_empty
from ohlcv_assets.errors import UsageError
from ohlcv_assets.exchange.binance import PAGE_MINUTES, klines_weight
from ohlcv_assets.exchange.fetch import first_listed_minute, pages_to_ask
from ohlcv_assets.instruments import FIRST_DAY, Market, Symbol
from ohlcv_assets.timestamps import DAY_MS, Interval, day_start_ms, floor_to, from_ms, iso, runs_of_minutes

if TYPE_CHECKING:
    from ohlcv_assets.exchange.binance import Exchange
    from ohlcv_assets.storage.database import Database
    from ohlcv_assets.storage.lake import Lake, Signature

#: Days asked for with one fetch. A spot page is a thousand minutes: two days fill three pages to 96 %, one day two to 72 %;
#: a day fills three futures pages of 499 to 96 %. More would be more to fetch again after a kill.
SPAN_DAYS = {Market.SPOT: 2, Market.FUTURES: 1}
#: Answers that it takes to know that a symbol has no bar at all.
_MOST_ANSWERS = 2


@dataclass(frozen=True)
class Plan:
    """What is to be fetched, and what that costs.

    Attributes:
        interval: what was asked for; for the lake, the whole finished UTC days that it touches.
        pieces: what to fetch: symbols and the minutes that all of them lack.
        days: UTC days with something to fetch.
        days_there: UTC days of which everything is stored already.
        bars: bars to fetch.
        requests: pages that these take.
        weight: their request weight.
        weight_a_minute: what bulk work of this host may spend in a minute.
        cut_at_ms: where the exchange's clock cut off what was asked for; None where it did not.
        days_empty: UTC days without a file, of which the lake knows that none of the symbols was listed.
        absence_requests: requests that come on top, at most, where a symbol that nobody knows since when it is listed turns out to have no
            bars: a second answer of each of its pages, for one proves no absence, and the question for its first bar.
        absence_weight: the weight of these.
        listed_from_ms: where the first listing of a symbol cut off the beginning of what was asked for; None where it did not.
    """

    interval: Interval
    pieces: tuple[Piece, ...]
    days: int
    days_there: int
    bars: int
    requests: int
    weight: int
    weight_a_minute: int
    cut_at_ms: int | None = None
    days_empty: int = 0
    absence_requests: int = 0
    absence_weight: int = 0
    listed_from_ms: int | None = None

    @property
    def minutes(self) -> int:
        """How many clock minutes of the exchange's budget it takes."""
        return math.ceil(self.weight / self.weight_a_minute)

    def facts(self) -> dict[str, str | int | None]:
        """The plan under the names that a machine reads."""
        return {
            "start": iso(self.interval.start_ms),
            "end": iso(self.interval.end_ms),
            "days": self.days,
            "days_there": self.days_there,
            "days_empty": self.days_empty,
            "bars": self.bars,
            "requests": self.requests,
            "weight": self.weight,
            "minutes": self.minutes,
            "requests_at_most": self.requests + self.absence_requests,
            "weight_at_most": self.weight + self.absence_weight,
            "cut_at": None if self.cut_at_ms is None else iso(self.cut_at_ms),
            "listed_from": None if self.listed_from_ms is None else iso(self.listed_from_ms),
        }


@dataclass(frozen=True)
class Piece:
    """Minutes that some symbols lack."""

    symbols: tuple[Symbol, ...]
    interval: Interval


#: Called with what is going to be fetched.
OnPlan = Callable[[Plan], None]


def plan_days(
    exchange: Exchange, lake: Lake, signature: Signature, symbols: Sequence[Symbol], interval: Interval
) -> Plan:
    """The finished UTC days that the interval touches and the lake does not have.

    A day is there when its file is: files are written whole or not at all. A day without one, of which the lake knows that none of the
    symbols was listed, is not asked for again.

    Raises:
        UsageError: no day of the interval is over on the exchange, or nothing was listed before its end.
    """
    listed = _since_listed(exchange, symbols, interval)
    days = finished_days(exchange, listed)
    there, without = set(lake.days(signature)), set(lake.days_without_bars(signature))
    empty = {day for day in days if day in without and known_empty(lake, signature, symbols, day)}
    wanted = [day for day in days if day not in there | empty]
    whole = Interval(Interval.of_day(days[0]).start_ms, Interval.of_day(days[-1]).end_ms)
    pieces = tuple(Piece(tuple(symbols), _whole(span)) for span in _spans(wanted, SPAN_DAYS[exchange.market]))
    cut_at_ms = whole.end_ms if interval.end_ms > whole.end_ms else None
    held = len(days) - len(wanted) - len(empty)
    plan = _priced(exchange, whole, pieces, days=len(wanted), there=held, cut_at_ms=cut_at_ms, in_lake=True)
    return replace(_beginning(plan, interval, listed), days_empty=len(empty))


def plan_bars(
    exchange: Exchange,
    database: Database,
    symbols: Sequence[Symbol],
    interval: Interval,
    *,
    only_missing: bool = True,
) -> Plan:
    """The finished bars of the interval that the database does not have; or all of them, to compare them with what it has.

    Raises:
        UsageError: no minute of the interval is over on the exchange, or nothing was listed before its end.
    """
    listed = _since_listed(exchange, symbols, interval)
    until_ms = min(interval.end_ms, exchange.finished_until_ms())
    if listed.start_ms >= until_ms:
        raise UsageError(
            f"no minute of {interval} is over: the exchange's clock says {iso(exchange.clock.now_ms())}",
            hint="choose an earlier time",
        )
    asked = Interval(listed.start_ms, until_ms)
    pieces: list[Piece] = []
    there = 0
    for day in by_days(asked):
        held = _held(database, exchange.market, day) if only_missing else {}
        lacking = [piece for piece in _lacking(symbols, day, held) if piece.interval.minutes]
        there += not lacking
        pieces += lacking
    days = {floor_to(piece.interval.start_ms, DAY_MS) for piece in pieces}
    cut_at_ms = until_ms if until_ms < interval.end_ms else None
    plan = _priced(exchange, asked, tuple(pieces), days=len(days), there=there, cut_at_ms=cut_at_ms)
    return _beginning(plan, interval, listed)


def by_days(interval: Interval) -> Iterator[Interval]:
    """The interval, cut at every midnight."""
    for day in days_of(interval):
        part = interval.intersect(Interval.of_day(day))
        if part is not None:
            yield part


def days_of(interval: Interval) -> Iterator[date]:
    """The UTC days that the interval touches, in order."""
    for day_ms in range(floor_to(interval.start_ms, DAY_MS), interval.end_ms, DAY_MS):
        yield from_ms(day_ms).date()


def finished_days(exchange: Exchange, interval: Interval) -> list[date]:
    """The UTC days that the interval touches and that are over on the exchange, in order.

    Raises:
        UsageError: none of them is over.
    """
    until_ms = floor_to(exchange.finished_until_ms(), DAY_MS)
    start_ms = floor_to(interval.start_ms, DAY_MS)
    if start_ms >= until_ms:
        raise UsageError(
            f"no day of {interval} is over: the exchange's clock says {iso(exchange.clock.now_ms())}",
            hint="choose an earlier start: the lake holds whole, finished UTC days",
        )
    return list(days_of(Interval(start_ms, min(interval.end_ms, until_ms))))


def _since_listed(exchange: Exchange, symbols: Sequence[Symbol], interval: Interval) -> Interval:
    """The interval without what is before the first listing of any symbol: nothing can be there, and nothing is asked for."""
    market_ms = day_start_ms(FIRST_DAY[exchange.market])
    first_ms = max(market_ms, min((first_listed_minute(exchange, symbol) for symbol in symbols), default=0))
    if interval.end_ms <= first_ms:
        raise UsageError(
            f"nothing was listed on {exchange.market} in {interval}: the first of these symbols came at {iso(first_ms)}",
            hint="choose a later end",
        )
    return Interval(max(interval.start_ms, first_ms), interval.end_ms)


def _beginning(plan: Plan, asked: Interval, listed: Interval) -> Plan:
    """The plan, saying where the first listing cut off what was asked for."""
    return plan if asked.start_ms == listed.start_ms else replace(plan, listed_from_ms=listed.start_ms)


def _priced(
    exchange: Exchange,
    interval: Interval,
    pieces: tuple[Piece, ...],
    *,
    days: int,
    there: int,
    cut_at_ms: int | None,
    in_lake: bool = False,
) -> Plan:
    bars = requests = weight = 0
    asked = Counter[Symbol]()
    for piece in pieces:
        for symbol, page in pages_to_ask(exchange, piece.symbols, piece.interval):
            bars += len(page.minutes)
            requests += 1
            weight += klines_weight(exchange.market, len(page.minutes))
            asked[symbol] += 1
    plan = Plan(interval, pieces, days, there, bars, requests, weight, exchange.budget.bulk_limit, cut_at_ms)
    return _with_absences(plan, exchange, asked, in_lake=in_lake)


def _with_absences(plan: Plan, exchange: Exchange, asked: Mapping[Symbol, int], *, in_lake: bool) -> Plan:
    """The plan, with what it takes at most to prove that symbols have no bars of which nobody says since when they are listed."""
    unknown = [symbol for symbol in asked if exchange.listing[symbol].listed_since_ms is None]
    again = sum(asked[symbol] for symbol in unknown)
    # Beside a day goes why a bar is not there: a symbol's first bar is asked for, and the last of one that does not trade.
    edges = sum(_MOST_ANSWERS * (1 if exchange.listing[symbol].active else 2) for symbol in unknown) if in_lake else 0
    most = klines_weight(exchange.market, PAGE_MINUTES[exchange.market])
    weight = again * most + edges * klines_weight(exchange.market, 1)
    return replace(plan, absence_requests=again + edges, absence_weight=weight)


def _spans(days: Sequence[date], most: int) -> Iterator[list[date]]:
    """Consecutive days together, so many at most."""
    span: list[date] = []
    for day in days:
        if span and (len(span) == most or day - span[-1] != timedelta(days=1)):
            yield span
            span = []
        span.append(day)
    if span:
        yield span


def _whole(span: Sequence[date]) -> Interval:
    return Interval(Interval.of_day(span[0]).start_ms, Interval.of_day(span[-1]).end_ms)


def _held(database: Database, market: Market, interval: Interval) -> dict[str, set[int]]:
    return _keys(database.keys(market, interval))


def _keys(keys: pl.DataFrame) -> dict[str, set[int]]:
    """Per symbol, the minutes of these keys."""
    return {symbol: set(minutes) for symbol, minutes in keys.group_by("symbol").agg("timestamp").iter_rows()}


def _lacking(symbols: Iterable[Symbol], interval: Interval, held: dict[str, set[int]]) -> list[Piece]:
    """What the symbols lack of the interval; symbols that lack the same minutes stand together."""
    by_range: dict[Interval, list[Symbol]] = defaultdict(list)
    for symbol in symbols:
        have = held.get(symbol)
        runs = runs_of_minutes([m for m in interval.minutes if m not in have]) if have else [interval]
        for run in runs:
            by_range[run].append(symbol)
    return [Piece(tuple(together), run) for run, together in sorted(by_range.items())]
