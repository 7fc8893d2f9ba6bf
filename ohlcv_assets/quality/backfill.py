"""A backfill of PostgreSQL, and the proof that a store is whole: every expected bar is there, or named.

Lives here: the download of a stretch of time into the database and the comparison of what is then stored with the grid;
Dagster's job and `ohlcv backfill-db` call the same function. Does not: planning and fetching (bulk_plan.py, bulk.py), or the grid itself
(completeness.py). What is expected: every minute of every symbol, but for those in which it was not listed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date
from typing import TYPE_CHECKING

import polars as pl

from ohlcv_assets.bulk import Done, OnDone, download_bars
from ohlcv_assets.bulk_plan import OnPlan, Plan, by_days, finished_days, plan_bars
from ohlcv_assets.exchange.fetch import MINUTES_SCHEMA
from ohlcv_assets.instruments import Symbol
from ohlcv_assets.quality.completeness import coverage
from ohlcv_assets.timestamps import Interval, runs_of_minutes

if TYPE_CHECKING:
    from ohlcv_assets.exchange.binance import Exchange
    from ohlcv_assets.storage.database import Database
    from ohlcv_assets.storage.lake import Lake, Signature


@dataclass(frozen=True)
class Backfilled:
    """What a backfill did, and what the database holds of its interval afterwards.

    Attributes:
        plan: what it fetched, and what that was to cost.
        done: what became of the bars.
        expected: bars that there must be: symbols times minutes, less those of symbols not listed then.
        missing: `symbol, timestamp` of expected bars that are not stored, sorted.
        absent: how many of the missing the exchange itself did not have in two answers.
    """

    plan: Plan
    done: Done
    expected: int
    missing: pl.DataFrame
    absent: int

    @property
    def is_complete(self) -> bool:
        """Whether something was expected, and all of it is stored."""
        return self.expected > 0 and self.missing.is_empty()

    @property
    def sentence(self) -> str:
        """The outcome in words."""
        present = self.expected - self.missing.height
        words = f"{present:,} of {self.expected:,} expected bars of {self.plan.interval} are stored"
        if self.done.revised:
            words += f"; {self.done.revised:,} differed from what was stored and became revisions"
        if not self.missing.is_empty():
            words += f"; {self.missing.height:,} are missing, {self.absent:,} of them on the exchange itself (two answers agree)"
        return words

    def facts(self) -> dict[str, str | int | float]:
        """The numbers under the names that metadata and machines read."""
        present = self.expected - self.missing.height
        return {
            "start": self.plan.facts()["start"] or "",
            "end": self.plan.facts()["end"] or "",
            "bars_expected": self.expected,
            "bars_present": present,
            "bars_missing": self.missing.height,
            "bars_absent_on_exchange": self.absent,
            "bars_fetched": self.done.fetched,
            "bars_inserted": self.done.stored,
            "bars_same": self.done.same,
            "bars_revised": self.done.revised,
            "coverage_pct": 100.0 * present / self.expected if self.expected else 0.0,
            "requests": self.done.requests,
            "request_weight": self.done.weight,
        }


async def backfill(
    exchange: Exchange,
    database: Database,
    symbols: Sequence[Symbol],
    interval: Interval,
    *,
    run_id: str,
    only_missing: bool = False,
    on_plan: OnPlan = lambda plan: None,
    on_done: OnDone = lambda done: None,
) -> Backfilled:
    """Fetch an interval by REST into the database, then read back what is stored and compare it with the grid.

    Nothing is overwritten: what differs from a stored bar becomes a revision beside it, with the reason `backfill`.

    Args:
        exchange: the opened market.
        database: where the bars go, with the channel `rest`.
        symbols: of this market.
        interval: cut off at the last finished minute of the exchange.
        run_id: stored with every bar.
        only_missing: fetch only what is not stored, and compare nothing.
        on_plan: told what is going to be fetched.
        on_done: told how far it is.

    Raises:
        UsageError: nothing of the interval is over.
        TransientError: exchange or database stayed away; what is stored stays.
    """
    listed = exchange.listing.require(symbols)
    plan = await asyncio.to_thread(plan_bars, exchange, database, listed, interval, only_missing=only_missing)
    on_plan(plan)
    done = await download_bars(exchange, database, plan, run_id=run_id, on_done=on_done)
    expected, missing = await asyncio.to_thread(missing_bars, exchange, database, listed, plan.interval)
    absent = missing.join(done.absent_minutes, on=list(MINUTES_SCHEMA), how="semi").height
    return Backfilled(plan, done, expected, missing, absent)


def missing_bars(
    exchange: Exchange, database: Database, symbols: Sequence[Symbol], interval: Interval
) -> tuple[int, pl.DataFrame]:
    """How many bars of the interval are expected, and `symbol, timestamp` of those that the database lacks, sorted."""
    days = ((day, database.keys(exchange.market, day)) for day in by_days(interval))
    return _missing(exchange, symbols, days)


def missing_days(
    exchange: Exchange, lake: Lake, signature: Signature, symbols: Sequence[Symbol], interval: Interval
) -> tuple[int, pl.DataFrame]:
    """The same of the finished days that the interval touches, and the lake. Of each day's file only the keys are read."""
    there = set(lake.days(signature))

    def keys(day: date) -> pl.DataFrame:
        if day not in there:
            return pl.DataFrame(schema=MINUTES_SCHEMA)
        return lake.scan(signature, [day]).select("symbol", "timestamp").collect()

    days = ((Interval.of_day(day), keys(day)) for day in finished_days(exchange, interval))
    return _missing(exchange, symbols, days)


def named_ranges(missing: pl.DataFrame) -> dict[str, list[Interval]]:
    """Per symbol, the fewest ranges of minutes that hold what is missing (`symbol, timestamp`)."""
    by_symbol = missing.group_by("symbol", maintain_order=True).agg("timestamp")
    return {symbol: runs_of_minutes(minutes) for symbol, minutes in by_symbol.iter_rows()}


def _missing(
    exchange: Exchange, symbols: Sequence[Symbol], days: Iterable[tuple[Interval, pl.DataFrame]]
) -> tuple[int, pl.DataFrame]:
    expected, frames = 0, [pl.DataFrame(schema=MINUTES_SCHEMA)]
    for day, keys in days:
        found = coverage(keys, symbols, day)
        listed = [exchange.listing[Symbol(symbol)].was_listed(minute) for symbol, minute in found.missing.iter_rows()]
        frames.append(found.missing.filter(pl.Series(listed, dtype=pl.Boolean)))
        expected += found.present + sum(listed)
    return expected, pl.concat(frames).sort("symbol", "timestamp")
