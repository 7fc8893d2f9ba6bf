"""Getting what a stretch of time lacks: whole days into the lake, bars into PostgreSQL, at the exchange's own limit.

Lives here: a download that goes on where it stopped. Does not: what is lacking and what it costs (bulk_plan.py), one fetch
(exchange/fetch.py), the pace (exchange/budget.py), or the storing of a day (capture.py). Bars come from the exchange by REST; days go
into the lake, one file each, or bars into the database with the channel `rest`.

What is there is the only memory: a download that was killed is begun again, and asks for what is not stored. The pieces
under way then are the only ones asked for twice.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import polars as pl

from ohlcv_assets.bars import Channel
from ohlcv_assets.bulk_plan import Piece, Plan, days_of
from ohlcv_assets.capture import download_day, keep_empty_day
from ohlcv_assets.exchange.absence import NearestBars
from ohlcv_assets.exchange.binance import Usage
from ohlcv_assets.exchange.fetch import MINUTES_SCHEMA, Fetched, fetch_bars, in_parallel
from ohlcv_assets.logs import get_logger
from ohlcv_assets.timestamps import Interval

if TYPE_CHECKING:
    from ohlcv_assets.exchange.binance import Exchange
    from ohlcv_assets.storage.database import Database
    from ohlcv_assets.storage.lake import Lake, Signature

#: Requests under way at once: 50 a second, what spot allows, at 0.24 s an answer.
REQUESTS_AT_ONCE = 12

_log = get_logger()


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
        days_empty: UTC days of which the lake now knows that none of the symbols was listed.
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
    days_empty: int = 0
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


#: Called whenever something has been settled.
OnDone = Callable[[Done], None]


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

    A day without a single bar has no file. When it is proved of each symbol that it was not listed then, the lake keeps that, and the day is
    not asked for again; otherwise the next download asks again.

    Raises:
        TransientError: the exchange or the lake stayed away; what is stored stays, and the next call goes on from there.
        LakeConflict: somebody else has stored one of the days meanwhile, with other content.
    """
    done, before, nearest = Done(), replace(exchange.usage), NearestBars()

    async def one(piece: Piece, concurrency: int) -> None:
        fetched = await _fetched(exchange, piece, concurrency, done, on_done)
        for day in days_of(piece.interval):
            part = _of_interval(fetched, Interval.of_day(day))
            if part.bars.is_empty():
                kept = await keep_empty_day(exchange, lake, signature, day, part, nearest)
                done.days_empty += kept
                _log.info(
                    "a day without a bar has no file", day=day.isoformat(), symbols=len(piece.symbols), proved=kept
                )
                continue
            stored = await download_day(
                exchange,
                lake,
                signature,
                piece.symbols,
                day,
                universe_hash=universe_hash,
                fetched=part,
                nearest=nearest,
            )
            done.days += 1
            done.stored += stored.written.rows if stored.written.outcome == "created" else 0
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
