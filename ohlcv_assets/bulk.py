"""What a stretch of time lacks, and getting it: whole days into the lake, bars into PostgreSQL, at the exchange's own limit.

Lives here: which days or bars are not there yet, what getting them costs, and a download that goes on where it stopped. Does not:
one fetch (exchange/fetch.py), the pace (exchange/budget.py), or the storing of a day (capture.py). Bars come from the
exchange by REST; days go into the lake, one file each, or bars into the database with the channel `rest`.

What is there is the only memory: a download that was killed is begun again, and asks for what is not stored. The pieces
under way then are the only ones asked for twice.
"""

from __future__ import annotations

import asyncio
import math
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import date, timedelta
from typing import TYPE_CHECKING

import polars as pl

from ohlcv_assets.bars import Channel
from ohlcv_assets.capture import download_day
from ohlcv_assets.errors import UsageError
from ohlcv_assets.exchange.binance import Usage, klines_weight
from ohlcv_assets.exchange.fetch import (
    MINUTES_SCHEMA,
    Fetched,
    fetch_bars,
    first_listed_minute,
    in_parallel,
    pages_to_ask,
)
from ohlcv_assets.instruments import FIRST_DAY, Market, Symbol
from ohlcv_assets.logs import get_logger
from ohlcv_assets.timestamps import DAY_MS, Interval, day_start_ms, floor_to, from_ms, iso, runs_of_minutes

if TYPE_CHECKING:
    from ohlcv_assets.exchange.binance import Exchange
    from ohlcv_assets.storage.database import Database
    from ohlcv_assets.storage.lake import Lake, Signature

#: Days asked for with one fetch. A spot page is a thousand minutes: two days fill three pages to 96 %, one day two to 72 %;
#: a day fills three futures pages of 499 to 96 %. More would be more to fetch again after a kill.
SPAN_DAYS = {Market.SPOT: 2, Market.FUTURES: 1}
#: Requests under way at once: 50 a second, what spot allows, at 0.24 s an answer.
REQUESTS_AT_ONCE = 12

_log = get_logger()


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
            "bars": self.bars,
            "requests": self.requests,
            "weight": self.weight,
            "minutes": self.minutes,
            "cut_at": None if self.cut_at_ms is None else iso(self.cut_at_ms),
            "listed_from": None if self.listed_from_ms is None else iso(self.listed_from_ms),
        }


@dataclass(frozen=True)
class Piece:
    """Minutes that some symbols lack."""

    symbols: tuple[Symbol, ...]
    interval: Interval


@dataclass
class Done:
    """How far a download is; the same object grows while it runs.

    Attributes:
        bars: bars settled: fetched, or known not to be had.
        fetched: bars that the exchange gave.
        stored: bars that the store did not have.
        same: bars that the database has with the same values.
        revised: bars that the database has with other values: each became a revision, and replaced nothing.
        days: UTC days stored in the lake.
        requests: questions asked.
        weight: what they cost.
        absent: (symbol, timestamp) of minutes that two answers agreed not to have.
    """

    bars: int = 0
    fetched: int = 0
    stored: int = 0
    same: int = 0
    revised: int = 0
    days: int = 0
    requests: int = 0
    weight: int = 0
    absent: list[pl.DataFrame] = field(default_factory=list)

    @property
    def absent_minutes(self) -> pl.DataFrame:
        """`symbol, timestamp` of every minute that the exchange did not have in two answers, sorted."""
        return pl.concat([pl.DataFrame(schema=MINUTES_SCHEMA), *self.absent]).sort("symbol", "timestamp")

    def facts(self) -> dict[str, int]:
        """The numbers under the names that a machine reads."""
        numbers = {name: value for name, value in vars(self).items() if isinstance(value, int)}
        return {**numbers, "absent": sum(frame.height for frame in self.absent)}


#: Called with what is going to be fetched, and whenever something has been settled.
OnPlan = Callable[[Plan], None]
OnDone = Callable[[Done], None]


def plan_days(
    exchange: Exchange, lake: Lake, signature: Signature, symbols: Sequence[Symbol], interval: Interval
) -> Plan:
    """The finished UTC days that the interval touches and the lake does not have.

    A day is there when its file is: files are written whole or not at all.

    Raises:
        UsageError: no day of the interval is over on the exchange, or nothing was listed before its end.
    """
    listed = _since_listed(exchange, symbols, interval)
    days = finished_days(exchange, listed)
    there = set(lake.days(signature))
    wanted = [day for day in days if day not in there]
    whole = Interval(Interval.of_day(days[0]).start_ms, Interval.of_day(days[-1]).end_ms)
    pieces = tuple(Piece(tuple(symbols), _whole(span)) for span in _spans(wanted, SPAN_DAYS[exchange.market]))
    cut_at_ms = whole.end_ms if interval.end_ms > whole.end_ms else None
    plan = _priced(exchange, whole, pieces, days=len(wanted), there=len(days) - len(wanted), cut_at_ms=cut_at_ms)
    return _beginning(plan, interval, listed)


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


async def download_days(
    exchange: Exchange,
    lake: Lake,
    signature: Signature,
    plan: Plan,
    *,
    universe_hash: str | None = None,
    on_done: OnDone = lambda done: None,
) -> Done:
    """Fetch the days of a plan into the lake, several at once where one does not fill the budget.

    A day without a single bar has no file: nothing was listed then.

    Raises:
        TransientError: the exchange or the lake stayed away; what is stored stays, and the next call goes on from there.
        LakeConflict: somebody else has stored one of the days meanwhile, with other content.
    """
    done, before = Done(), replace(exchange.usage)

    async def one(piece: Piece, concurrency: int) -> None:
        fetched = await _fetched(exchange, piece, concurrency, done, on_done)
        for day in _days_of(piece.interval):
            part = _of_interval(fetched, Interval.of_day(day))
            if part.bars.is_empty():
                _log.info("a day without a bar has no file", day=day.isoformat(), symbols=len(piece.symbols))
                continue
            kept = await download_day(
                exchange, lake, signature, piece.symbols, day, universe_hash=universe_hash, fetched=part
            )
            done.days += 1
            done.stored += kept.written.rows if kept.written.outcome == "created" else 0
            on_done(done)

    await _all(plan, one)
    return _counted(done, exchange, before)


async def download_bars(
    exchange: Exchange,
    database: Database,
    plan: Plan,
    *,
    run_id: str,
    reason: str = "backfill",
    on_done: OnDone = lambda done: None,
) -> Done:
    """Fetch the bars of a plan into the database, with the channel `rest`.

    Nothing is overwritten: a bar that the database has with other values becomes a revision beside it, with this reason.

    Raises:
        TransientError: the exchange or the database stayed away; what is stored stays.
    """
    done, before = Done(), replace(exchange.usage)

    async def one(piece: Piece, concurrency: int) -> None:
        fetched = await _fetched(exchange, piece, concurrency, done, on_done)
        recorded = await asyncio.to_thread(
            database.record, fetched.bars, channel=Channel.REST, run_id=run_id, reason=reason
        )
        done.stored += recorded.inserted
        done.same += recorded.same
        done.revised += recorded.revised
        on_done(done)

    await _all(plan, one)
    return _counted(done, exchange, before)


def by_days(interval: Interval) -> Iterator[Interval]:
    """The interval, cut at every midnight."""
    for day in _days_of(interval):
        part = interval.intersect(Interval.of_day(day))
        if part is not None:
            yield part


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
    return list(_days_of(Interval(start_ms, min(interval.end_ms, until_ms))))


async def _all(plan: Plan, one: Callable[[Piece, int], Awaitable[None]]) -> None:
    """Every piece of the plan: so many at once that their requests keep the exchange busy, and one more, being stored."""
    if not plan.pieces:
        return
    pages = max(1, round(plan.requests / len(plan.pieces)))
    at_once = 1 + math.ceil(REQUESTS_AT_ONCE / pages)
    await in_parallel((one(piece, min(REQUESTS_AT_ONCE, pages)) for piece in plan.pieces), at_once)


async def _fetched(exchange: Exchange, piece: Piece, concurrency: int, done: Done, on_done: OnDone) -> Fetched:
    """One piece, its bars counted page by page."""
    settled = 0

    def tell(bars: int, _expected: int) -> None:
        nonlocal settled
        done.bars += bars - settled
        settled = bars
        on_done(done)

    fetched = await fetch_bars(exchange, piece.symbols, piece.interval, concurrency=concurrency, on_progress=tell)
    done.fetched += fetched.bars.height
    done.absent.append(fetched.missing)
    return fetched


def _counted(done: Done, exchange: Exchange, before: Usage) -> Done:
    """With what was asked of the exchange; pieces under way together cannot count that each for itself."""
    done.requests = exchange.usage.requests - before.requests
    done.weight = exchange.usage.weight - before.weight
    return done


def _of_interval(fetched: Fetched, interval: Interval) -> Fetched:
    """The part of a fetch that lies in an interval."""
    inside = pl.col("timestamp").is_between(interval.start_ms, interval.end_ms, closed="left")
    return replace(
        fetched,
        bars=fetched.bars.filter(inside),
        missing=fetched.missing.filter(inside),
        not_listed=fetched.not_listed.filter(inside),
        until_ms=min(fetched.until_ms, interval.end_ms),
    )


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
) -> Plan:
    bars = requests = weight = 0
    for piece in pieces:
        for _, page in pages_to_ask(exchange, piece.symbols, piece.interval):
            bars += len(page.minutes)
            requests += 1
            weight += klines_weight(exchange.market, len(page.minutes))
    return Plan(interval, pieces, days, there, bars, requests, weight, exchange.budget.bulk_limit, cut_at_ms)


def _days_of(interval: Interval) -> Iterator[date]:
    for day_ms in range(floor_to(interval.start_ms, DAY_MS), interval.end_ms, DAY_MS):
        yield from_ms(day_ms).date()


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
